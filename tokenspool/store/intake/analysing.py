"""Has PostgreSQL look at a table that was just filled: until it does, its planner knows nothing."""

from __future__ import annotations

import contextlib

import sqlalchemy as sa

from tokenspool.database import Database, DatabaseError

#: New jobs from which on it is worth a look; autovacuum takes one too, within a minute.
MANY = 10_000
#: It is only a help: who holds the lock that it needs (a vacuum, a migration) is not waited for
#: long, and neither is a slow disk.
_LOCK_MS, _TOOK_MS = 500, 10_000


def analyse(database: Database, *, new: int) -> None:
    """Gather the planner's statistics of the jobs, if many are new and it can be had at once.

    Begins a transaction of its own; reads and writes go on beside it. SQLite needs none.
    """
    if new < MANY or database.kind != "postgresql":
        return
    with contextlib.suppress(DatabaseError), database.write() as connection:
        connection.execute(sa.text(f"SET LOCAL lock_timeout = {_LOCK_MS}"))
        connection.execute(sa.text(f"SET LOCAL statement_timeout = {_TOOK_MS}"))
        connection.execute(sa.text("ANALYZE job"))
