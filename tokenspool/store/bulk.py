"""Many rows in one statement, on PostgreSQL: arrays for what changes, COPY for what is new.

A statement per row costs a round trip each, or 20 us each in a pipeline; a thousand rows as one
array per column cost what one statement costs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from tokenspool.database import now

#: The database's clock, as it is written in a statement.
CLOCK = str(now().compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
#: Columns of a statement and their types in PostgreSQL.
Columns = Mapping[str, str]
Row = Sequence[Any]

#: Of a table that has just been filled the planner knows nothing, and would rather read all of it.
_BY_INDEX = (
    "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
)
_LOCKED = "SELECT id FROM job WHERE id = ANY(%b::int8[]) ORDER BY id FOR UPDATE"
_LOCKED_CHECKPOINTS = (
    "SELECT job_id, epoch, seq, text FROM checkpoint WHERE job_id = ANY(%b::int8[])"
    " ORDER BY job_id FOR UPDATE"
)


def is_bulk(connection: sa.Connection) -> bool:
    """Tell whether rows are written in bulk here; SQLite has no round trips to save."""
    return connection.dialect.name == "postgresql"


def find_by_index(connection: sa.Connection) -> None:
    """Let this transaction find rows by their keys, whatever the planner knows of a table."""
    connection.exec_driver_sql(_BY_INDEX)


def lock_jobs(connection: sa.Connection, ids: Iterable[int]) -> None:
    """Lock jobs in the order of all locks: jobs by id, then checkpoints by id."""
    execute(connection, _LOCKED, {"id": "int8"}, [(one,) for one in sorted(set(ids))])


def lock_checkpoints(
    connection: sa.Connection, ids: Iterable[int]
) -> dict[int, tuple[int, int, int]]:
    """Lock checkpoints in order, behind their jobs; give epoch, seq and text of each by its job."""
    rows = [(one,) for one in sorted(set(ids))]
    found = execute(connection, _LOCKED_CHECKPOINTS, {"job_id": "int8"}, rows)
    return {job_id: (epoch, seq, text) for job_id, epoch, seq, text in found}


def among(
    connection: sa.Connection, column: sa.Column[int], ids: Sequence[int]
) -> sa.ColumnElement[bool]:
    """Give the condition that a column is one of many numbers."""
    if not is_bulk(connection):
        return column.in_(ids)
    array = sa.bindparam("ids", list(ids), type_=postgresql.ARRAY(sa.BigInteger), unique=True)
    return column == sa.any_(array)


def unnest(columns: Columns) -> str:
    """Give the FROM item `n` that makes rows of one array for each column."""
    arrays = ", ".join(f"%b::{kind}[]" for kind in columns.values())
    names = ", ".join(f'"{name}"' for name in columns)
    return f"unnest({arrays}) AS n ({names})"


def execute(
    connection: sa.Connection, statement: str, columns: Columns, rows: Sequence[Row]
) -> list[Any]:
    """Run a statement with an array for each column of all rows; give what it returns."""
    if not rows:
        return []
    # The driver is not there where only SQLite is used.
    from tokenspool.store.arrays import Int8s, prepare  # noqa: PLC0415

    driver: Any = connection.connection.driver_connection
    prepare(driver)
    arrays = tuple(
        Int8s(values) if kind == "int8" else list(values)
        for kind, values in zip(columns.values(), zip(*rows, strict=True), strict=True)
    )
    result = connection.exec_driver_sql(statement, arrays)
    return list(result.all()) if result.returns_rows else []


def copy(connection: sa.Connection, table: str, columns: Columns, rows: Sequence[Row]) -> None:
    """Copy new rows into a table, in binary. Raises what an INSERT of them would raise."""
    if not rows:
        return
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)"
    driver: Any = connection.connection.driver_connection
    with _said(connection, statement), driver.cursor().copy(statement) as stream:
        stream.set_types(tuple(columns.values()))
        for row in rows:
            stream.write_row(row)


@contextmanager
def _said(connection: sa.Connection, statement: str) -> Iterator[None]:
    """Turn the driver's errors into SQLAlchemy's, which knows no COPY, as it does for the rest."""
    driver: Any = connection.connection.driver_connection
    dialect = connection.dialect
    try:
        yield
    except struct.error as error:
        msg = f"a number does not fit into a column: {error}"
        raise OverflowError(msg) from error
    except driver.Error as error:
        gone = dialect.is_disconnect(error, driver, None)
        if gone:
            connection.invalidate(error)
        said = sa.exc.DBAPIError.instance(
            statement, None, error, driver.Error, connection_invalidated=gone, dialect=dialect
        )
        raise said from error
