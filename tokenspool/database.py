"""The database behind a URL: opening it safely, and transactions that mean what they say.

SQLite: WAL, `synchronous=FULL`, writers begin IMMEDIATE. Versions with the WAL-reset bug (before
3.51.3, but for 3.50.7+ and 3.44.6+ of their lines) can corrupt when two connections write and
checkpoint at once, so there every write of every process goes through one file lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import QueuePool

from tokenspool.errors import Unavailable, UsageError

_WRITE = "tokenspool_write"
#: What others call PostgreSQL in a URL. The driver is ours to choose, whatever a URL says.
_KINDS = {"postgres": "postgresql"}
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
#: Error texts that mean "not now". SQLite: another writer, a full disk; PostgreSQL: it cannot be
#: connected to, which it says without a code.
_PASSING = (
    "database is locked",
    "database table is locked",
    "database or disk is full",
    "disk i/o",
    "connection refused",
    "connection reset",
    "timeout expired",
    "timed out",
    "server closed the connection",
    "ssl connection has been closed",
    "eof detected",
    "the database system is",
    "no route to host",
    "host is down",
    "network is unreachable",
    # A local server's socket, while it restarts.
    "no such file or directory",
    # A name server that restarts, or a service that moves; a name that is wrong fails at the start.
    "name resolution",
    "name or service not known",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    # PgBouncer, while the server behind it is away, or when it has no room.
    "server_login_retry",
    "cannot connect to server",
    "no more connections allowed",
    "query_wait_timeout",
)
#: PostgreSQL's codes that mean "not now": connection lost, deadlock or serialisation, no room, a
#: lock's timeout, the server's end.
_PASSING_CODES = ("08", "40", "53", "55P03", "57P")
#: What a crowded or full machine says to anybody.
_PASSING_ERRNO = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EIO}


class now(sa.sql.functions.GenericFunction[float]):  # noqa: N801 - it is an SQL function's name
    """The database's clock, in seconds since 1970 (UTC)."""

    type = sa.Float()
    inherit_cache = True
    name = "tokenspool_now"


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: object, **_: object) -> str:
    # unixepoch('subsec') needs 3.42; julianday is exact to the millisecond.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(_element: now, _compiler: object, **_: object) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def sqlite_is_safe(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Tell whether this SQLite is free of the WAL-reset bug."""
    return (
        version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    )


def sqlite_url(path: Path) -> str:
    """Give the URL of a SQLite file."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def is_on_read_only_disk(path: Path) -> bool:
    """Tell whether a file lies where nobody can write: an archive, a snapshot."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:  # not there
        return False


def reader_uri(path: Path) -> str:
    """Give the URI by which SQLite reads a file and writes nothing, not even beside it."""
    uri = f"{path.as_uri()}?mode=ro"
    log = path.with_name(path.name + "-wal")
    # Without a log SQLite would make one. It reads past one that it is told cannot change.
    if is_on_read_only_disk(path) and not (log.exists() and log.stat().st_size):
        uri += "&immutable=1"
    return uri


class WriteLock:
    """One writer at a time over all processes, by flock on a file beside the database."""

    def __init__(self, path: Path | None) -> None:
        """Without a path there is nothing to lock."""
        self._path = path
        self._file: int | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock and hold it."""
        if self._path is None:
            yield
            return
        # A descriptor of its own per holder: flock does not exclude within one descriptor.
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            passing = error.errno in _PASSING_ERRNO
            raise DatabaseError(str(self._path), str(error.strerror), passing=passing) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def is_free(self) -> bool:
        """Whether nobody holds it just now; asked without waiting."""
        if self._path is None:
            return True
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False


class Database:
    """An opened database: read snapshots, write transactions, and what kind it is."""

    def __init__(self, url: str) -> None:
        """Prepare the engine; nothing is opened yet."""
        try:
            self.url = sa.make_url(url)
            kind = self.url.get_backend_name()
            self.kind = _KINDS.get(kind, kind)
        except (sa.exc.ArgumentError, ValueError) as error:
            msg = f"the database URL is not one ({error}); for example sqlite:////data/spool.db"
            raise UsageError(msg) from error
        if self.kind not in {"sqlite", "postgresql"}:
            msg = f"tokenspool keeps jobs in SQLite or PostgreSQL, not in {self.kind}"
            raise UsageError(msg)
        self.url = self.url.set(drivername=_DRIVERS[self.kind])
        self.path: Path | None = None
        lock: Path | None = None
        options: dict[str, Any] = {}
        if self.kind == "sqlite":
            self.path = Path(self.url.database or "").absolute()
            can_be_written = not is_on_read_only_disk(self.path)
            if can_be_written and not sqlite_is_safe():
                lock = self.path.with_name(self.path.name + ".lock")
            options = {
                "poolclass": QueuePool,
                "connect_args": {"check_same_thread": False, "timeout": 60},
            }
            if not can_be_written:
                options["creator"] = partial(_open_to_read, self.path)
        self.lock = WriteLock(lock)
        try:
            self.engine = sa.create_engine(self.url, **options)
        except ImportError as error:
            msg = "PostgreSQL needs its driver: pip install 'tokenspool[postgres]'"
            raise Unavailable(msg) from error
        if self.kind == "sqlite":
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def name(self) -> str:
        """The database as it may be shown: never with a password."""
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Hold one snapshot for reading."""
        with self._said(), self.engine.connect() as connection:
            if self.kind == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Hold one write transaction: committed at the end, rolled back on an exception."""
        with self._said(), self.lock.held(), self.engine.connect() as plain:
            connection = plain.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close all connections."""
        # Closing the last connection checkpoints the WAL, which is a write. Whoever holds the lock
        # for long must not keep us: then the process's end closes the connections, as a kill does.
        if self.lock.is_free():
            with contextlib.suppress(DatabaseError), self.lock.held():
                self.engine.dispose()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Turn what the driver says into one sentence that names the database."""
        try:
            yield
        except sa.exc.TimeoutError as error:
            raise DatabaseError(self.name, "all connections are in use", passing=True) from error
        except sa.exc.DBAPIError as error:
            if not (_is_of_the_database(error) or error.connection_invalidated):
                raise
            reason = str(error.orig).splitlines()[0] if str(error.orig) else "no reason given"
            passing = error.connection_invalidated or _is_passing(error, reason)
            raise DatabaseError(self.name, reason, passing=passing) from error


class DatabaseError(Unavailable):
    """The database refused; `passing` when waiting may mend it (full, locked, away)."""

    def __init__(self, name: str, reason: str, *, passing: bool) -> None:
        """Say which database and why."""
        super().__init__(f"the database {name} cannot be used: {reason}")
        self.passing = passing


def _is_of_the_database(error: sa.exc.DBAPIError) -> bool:
    """Tell whether an error is the database's own, or that of the data it was given."""
    # SQLite raises the plain class, none of its children, for a file that is damaged.
    return isinstance(error, sa.exc.OperationalError) or type(error) is sa.exc.DatabaseError


def _is_passing(error: sa.exc.DBAPIError, reason: str) -> bool:
    """Tell whether waiting may mend it."""
    code = getattr(error.orig, "sqlstate", None)
    if code:
        return str(code).startswith(_PASSING_CODES)
    return any(text in reason.lower() for text in _PASSING)


def is_writing(connection: sa.Connection) -> bool:
    """Tell whether a connection is one of `Database.write`."""
    return bool(connection.get_execution_options().get(_WRITE, False))


def _open_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(reader_uri(path), uri=True, check_same_thread=False, timeout=60)


def _prepare_sqlite(dbapi: sqlite3.Connection, _record: object) -> None:
    # We begin transactions ourselves (below); the driver's implicit ones begin too late.
    dbapi.isolation_level = None
    cursor = dbapi.cursor()
    cursor.execute("PRAGMA busy_timeout=60000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA cache_size=-8000")
    cursor.execute("PRAGMA wal_autocheckpoint=4000")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing(connection) else "BEGIN")


def retrying(
    operation: Callable[[], Any],
    *,
    attempts: int = 5,
    pause: Callable[[float], None] = time.sleep,
) -> Any:  # noqa: ANN401 - it gives what the operation gives
    """Run a whole transaction again while the database says "not now"."""
    for again in range(attempts):
        try:
            return operation()
        except DatabaseError as error:
            if not error.passing or again == attempts - 1:
                raise
            pause(0.05 * 2**again)
    raise AssertionError  # the loop returns or raises
