"""The job table as an enqueue needs it: who is there already, and many new rows at once.

Straight on the driver: SQLAlchemy's own executemany costs 10 us a row, which is half of the price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.errors import Unavailable
from tokenspool.model import JobState

_j = t.job.c


class CollisionError(Unavailable):
    """A new job has the custom_id or the name of one that is there."""

    def __init__(self) -> None:
        """Say who it can have been."""
        super().__init__(
            "another process enqueues the same jobs at the same time; nothing was taken, try again"
        )


class Existing(NamedTuple):
    """A job that is there already; in the order of `_EXISTING`."""

    id: int
    custom_id: str
    name_key: str
    content: bytes
    name: str
    state: str
    intake_id: int
    endpoint_id: int
    output_id: int
    priority: int
    resume: str
    max_output_tokens: int | None
    max_continuations: int
    max_attempts: int
    on_seam: str
    extra: bytes | None


_EXISTING = ", ".join(Existing._fields)
#: What is the same for all rows of an enqueue, with its type in PostgreSQL.
_SHARED = {
    "batch_id": "int8",
    "intake_id": "int8",
    "output_id": "int8",
    "resume": "varchar",
    "max_continuations": "int4",
    "max_attempts": "int4",
    "on_seam": "varchar",
    "created_at": "float8",
    "state": "varchar",
}
#: What each row has of its own.
_EACH = {
    "endpoint_id": "int8",
    "custom_id": "varchar",
    "content": "bytea",
    "name": "text",
    "name_key": "text",
    "api": "varchar",
    "body": "bytea",
    "extra": "bytea",
    "priority": "int4",
    "max_output_tokens": "int8",
}
#: The values of one new row, in the order of `_EACH`.
New = tuple[int, str, bytes, str, str, str, bytes, bytes, int, int | None]
Shared = Mapping[str, Any]


def by_custom_id(
    connection: sa.Connection, *, batch_id: int, custom_ids: Sequence[str]
) -> dict[str, Existing]:
    """Give the jobs of a batch that have these custom_ids."""
    rows = _look_up(connection, "batch_id", batch_id, "custom_id", custom_ids)
    return {row.custom_id: row for row in rows}


def by_name_key(
    connection: sa.Connection, *, output_id: int, name_keys: Sequence[str]
) -> dict[str, Existing]:
    """Give the jobs of an output folder whose names a file system may take for these."""
    rows = _look_up(connection, "output_id", output_id, "name_key", name_keys)
    return {row.name_key: row for row in rows}


def _look_up(
    connection: sa.Connection, scope: str, scope_id: int, column: str, values: Sequence[str]
) -> list[Existing]:
    if not values:
        return []
    # Nothing of what people wrote is in the statement: columns and marks only.
    head = f"SELECT {_EXISTING} FROM job WHERE {scope} = "  # noqa: S608
    if connection.dialect.name == "postgresql":
        # Of a table that has just been filled the planner knows nothing and would read all of it.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = connection.exec_driver_sql(
            f"{head}%s AND {column} = ANY(%s)", (scope_id, list(values))
        )
    else:
        marks = ",".join("?" * len(values))
        rows = connection.exec_driver_sql(f"{head}? AND {column} IN ({marks})", (scope_id, *values))
    return [Existing(*row) for row in rows]


def nested(connection: sa.Connection, *, output_id: int, after: str, limit: int) -> list[Existing]:
    """Give one page of an output's jobs that lie in folders below it, by name."""
    columns = [_j[name] for name in Existing._fields]
    page = (
        sa.select(*columns)
        .where(_j.output_id == output_id, _j.name_key > after, _j.name_key.like("%/%"))
        .order_by(_j.name_key)
        .limit(limit)
    )
    return [Existing(*row) for row in connection.execute(page)]


def body_of(connection: sa.Connection, job_id: int) -> bytes:
    """Give a job's request."""
    return bytes(connection.execute(sa.select(_j.body).where(_j.id == job_id)).scalar_one())


def insert(
    connection: sa.Connection, rows: Sequence[New], shared: Shared, *, again: bool = False
) -> None:
    """Insert jobs; `again` after a commit whose answer was lost, when they may be there already.

    Raises `CollisionError`.
    """
    if again and _ours(connection, rows, shared) == len(rows):
        return
    values = {**shared, "state": JobState.PENDING.value}
    same = tuple(values[name] for name in _SHARED)
    try:
        if connection.dialect.name == "postgresql":
            _copy(connection, ((*same, *row) for row in rows))
        else:
            connection.exec_driver_sql(_INSERT, [(*same, *row) for row in rows])
    except sa.exc.IntegrityError as error:
        raise CollisionError from error


def _ours(connection: sa.Connection, rows: Sequence[New], shared: Shared) -> int:
    mine = sa.select(sa.func.count()).where(
        _j.batch_id == shared["batch_id"],
        _j.intake_id == shared["intake_id"],
        _j.custom_id.in_([row[1] for row in rows]),
    )
    return int(connection.execute(mine).scalar_one())


_COLUMNS = ", ".join((*_SHARED, *_EACH))
_INSERT = f"INSERT INTO job ({_COLUMNS}) VALUES ({', '.join('?' * len((*_SHARED, *_EACH)))})"  # noqa: S608
_COPY = f"COPY job ({_COLUMNS}) FROM STDIN (FORMAT BINARY)"


def _copy(connection: sa.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Copy rows in binary: more than twice as fast as an INSERT from arrays.

    SQLAlchemy knows no COPY, so what the driver raises is turned into its errors here.
    """
    driver: Any = connection.connection.driver_connection
    dialect = connection.dialect
    try:
        with driver.cursor().copy(_COPY) as copy:
            copy.set_types((*_SHARED.values(), *_EACH.values()))
            for row in rows:
                copy.write_row(row)
    except driver.IntegrityError as error:
        raise sa.exc.IntegrityError(_COPY, None, error) from error
    except driver.Error as error:
        gone = dialect.is_disconnect(error, driver, None)
        if gone:
            connection.invalidate(error)
        raise sa.exc.OperationalError(_COPY, None, error, connection_invalidated=gone) from error
