"""Index claimable jobs by their groups, and what a dispatcher has offered.

What old code sees while this runs: it waits, since making an index keeps writers of its table out;
reckon with some seconds for each million unfinished jobs. Afterwards what runs goes on, but claims
by reading all pending jobs, and what starts anew refuses the database as newer than itself: drain
the workers before. No row changes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace the index over pending jobs, and add those that claims and the dispatcher need."""
    op.drop_index("job_ready", "job")
    _partial(
        "job_claimable",
        "job",
        ["endpoint_id", "batch_id", "intake_id", sa.text("priority DESC"), "id"],
        "state IN ('pending', 'dispatched')",
    )
    _partial("job_dispatched", "job", ["run_at"], "state = 'dispatched'")
    op.create_index("intake_batch", "intake", ["batch_id", "id"])
    # As each database writes a condition that is false.
    sqlite = op.get_bind().dialect.name == "sqlite"
    hidden = "revealed = 0" if sqlite else "NOT revealed"
    _partial("intake_hidden", "intake", ["id"], hidden)


def _partial(name: str, table: str, columns: list[str | sa.TextClause], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
