"""An enqueue inside somebody's own transaction: committed with it, rolled back with it.

Nothing here is visible to anybody before the caller commits, so dying in the middle leaves nothing.
What is refused is undone to a savepoint: the caller's transaction is then as it was before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from tokenspool import migrate
from tokenspool import tables as t
from tokenspool.database import (
    Database,
    DatabaseError,
    WriteLock,
    is_writing,
    sqlite_is_safe,
)
from tokenspool.errors import Unavailable, UsageError
from tokenspool.names import check_batch
from tokenspool.store.intake import rows
from tokenspool.store.intake.changes import Changes
from tokenspool.store.intake.enqueue import Line, take
from tokenspool.store.intake.hidden import Hidden, sweep
from tokenspool.store.intake.judge import Judge
from tokenspool.store.intake.lock import alone_within
from tokenspool.store.intake.options import Enqueued, JobOptions, Listener
from tokenspool.store.intake.place import Place
from tokenspool.store.intake.turns import MAX_ROWS, Turns


class _RefusedError(Exception):
    """A line is bad: what was written so far is undone."""

    def __init__(self, total: Enqueued) -> None:
        super().__init__()
        self.total = total


class _Joined(Database):
    """A database of which every read and write is part of one transaction of the caller's."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self.engine = connection.engine
        self.url = connection.engine.url
        self.kind = connection.dialect.name
        file = self.url.database if self.kind == "sqlite" else None
        self.path = Path(file).absolute() if file and file != ":memory:" else None
        self.lock = WriteLock(None)

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        try:
            with self._said():
                yield self._connection
        except DatabaseError as error:
            # Only the caller can begin the transaction anew.
            error.passing = False
            raise

    read = write


def enqueue_within(
    connection: sa.Connection, batch: str, root: str, lines: Iterable[Line], options: JobOptions
) -> Enqueued:
    """Take the jobs of `lines` in as a part of the connection's transaction.

    With `accepted` they are there as soon as the caller commits. Without it, and after an
    exception, the transaction holds nothing of them and may be gone on with. Other enqueues wait
    until it ends, so end it soon. Raises `UsageError` for a connection that cannot keep this.
    """
    check_batch(batch)
    _check(connection)
    database = _Joined(connection)
    _begin(connection)
    try:
        with (
            Changes() as changes,
            database.write(),
            connection.begin_nested(),
            alone_within(connection, database.path),
            _plans_kept(connection),
        ):
            _check_tables(connection)
            turns = Turns(database, lambda _: None)
            sweep(turns)
            hidden = Hidden(turns, Place(database, batch, root))
            total = take(lines, hidden, Judge([hidden.place], options), changes, Listener())
            _refuse_invalid(total)
            hidden.reveal()
            changes.apply(turns)
    except _RefusedError as refused:
        return refused.total
    return replace(total, accepted=True)


def _refuse_invalid(total: Enqueued) -> None:
    if total.invalid:
        raise _RefusedError(total)


def ids_of(connection: sa.Connection, batch: str, custom_ids: Sequence[str]) -> tuple[int, ...]:
    """Give the ids of a batch's jobs, in the order of their custom_ids; each must be there."""
    batch_id = connection.execute(sa.select(t.batch.c.id).where(t.batch.c.name == batch)).scalar()
    found: list[int] = []
    with _plans_kept(connection):
        for at in range(0, len(custom_ids) if batch_id else 0, MAX_ROWS):
            some = custom_ids[at : at + MAX_ROWS]
            jobs = rows.by_custom_id(connection, batch_id=batch_id or 0, custom_ids=some)
            found += (jobs[name].id for name in some)
    return tuple(found)


def _check(connection: sa.Connection) -> None:
    """Refuse a connection on which the promise would be none."""
    dialect = connection.dialect
    if dialect.name == "sqlite":
        # Our own transactions hold the file lock that this SQLite needs; nobody else's do.
        if not sqlite_is_safe() and not is_writing(connection):
            msg = (
                "this SQLite may damage a file that two connections write to (mended in 3.51.3):"
                " use a connection of tokenspool.transaction()"
            )
            raise UsageError(msg)
    elif dialect.name != "postgresql" or dialect.driver != "psycopg" or dialect.is_async:
        msg = (
            "the connection must be a synchronous one to SQLite or, with psycopg 3"
            f" (postgresql+psycopg://), to PostgreSQL, not of {dialect.name}+{dialect.driver}"
        )
        raise UsageError(msg)
    options = connection.get_execution_options()
    driver = connection.connection.driver_connection
    if options.get("isolation_level") == "AUTOCOMMIT" or getattr(driver, "autocommit", 0) is True:
        msg = "the connection commits each statement by itself: use one without AUTOCOMMIT"
        raise UsageError(msg)


def _begin(connection: sa.Connection) -> None:
    """Begin where the driver has not: SQLite's own begins late, and a savepoint would commit."""
    # Whoever listens for a beginning, to begin for the driver, does it now.
    connection.execute(sa.select(sa.literal(1)))
    driver = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and not getattr(driver, "in_transaction", True):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_tables(connection: sa.Connection) -> None:
    if migrate.of_connection(connection) != t.HEAD:
        msg = (
            f"the connection's database has no tables of tokenspool at revision {t.HEAD}:"
            " run `tokenspool db upgrade`"
        )
        raise Unavailable(msg)


@contextlib.contextmanager
def _plans_kept(connection: sa.Connection) -> Iterator[None]:
    """Give the transaction back the planner's setting that our look-ups change."""
    if connection.dialect.name != "postgresql":
        yield
        return
    setting = connection.execute(sa.select(sa.func.current_setting("enable_seqscan"))).scalar()
    yield
    connection.execute(sa.select(sa.func.set_config("enable_seqscan", setting, True)))  # noqa: FBT003
