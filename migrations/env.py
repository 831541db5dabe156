"""Alembic's entry: runs the migrations on the connection that tokenspool hands over."""

from alembic import context

from tokenspool.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    # The caller holds the transaction, and on SQLite the file lock.
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
