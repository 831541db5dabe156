"""One enqueue per database at a time: what else is hidden there is then known to be abandoned."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from tokenspool.database import Database
from tokenspool.errors import Unavailable

#: "tokenspo" in ASCII: what the advisory lock of a PostgreSQL database is called by.
_KEY = 0x746F6B656E73706F


@contextlib.contextmanager
def alone(database: Database, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the enqueue lock; `on_wait` is called if another enqueue has it. Death releases it."""
    if database.path is not None:
        path = database.path.with_name(database.path.name + ".enqueue")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _flock(handle, on_wait)
            yield
        finally:
            os.close(handle)
        return
    # Held by the session, outside any transaction: an old snapshot would keep vacuum away.
    with database.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(_KEY))).scalar():
            on_wait()
            connection.execute(sa.select(sa.func.pg_advisory_lock(_KEY)))
        try:
            yield
        finally:
            # The pool must not keep a connection that still holds the lock.
            connection.invalidate()


@contextlib.contextmanager
def alone_within(connection: sa.Connection, path: Path | None) -> Iterator[None]:
    """Hold the enqueue lock for somebody's own transaction; `path` is that of a SQLite file.

    PostgreSQL waits, and keeps the lock to the transaction's end. On SQLite that transaction may
    already keep all others from writing, so nobody may be waited for: raises `Unavailable`.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_KEY)))
        yield
        return
    if path is None:
        yield
        return
    path = path.with_name(path.name + ".enqueue")
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take_now(handle)
        yield
    finally:
        os.close(handle)


def _take_now(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        msg = "another enqueue is under way in this database: roll back, and try again"
        raise Unavailable(msg) from error


def _flock(handle: int, on_wait: Callable[[], None]) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(handle, fcntl.LOCK_EX)
