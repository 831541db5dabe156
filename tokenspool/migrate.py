"""The database's own version: which one it is, and bringing it to ours.

Alembic is read only when there is something to migrate: it takes longer than a whole `status`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from tokenspool import tables
from tokenspool.database import Database, reader_uri
from tokenspool.errors import Unavailable, UsageError

#: "tokenmig" in ASCII: the advisory lock under which PostgreSQL migrates.
_KEY = 0x746F6B656E6D6967
_VERSION = "SELECT version_num FROM alembic_version"
_SQLITE_HEADER = b"SQLite format 3\x00"


def ensure(database: Database) -> None:
    """Return when the database has this version's tables; raises `Unavailable` if it can not.

    A SQLite file is made (0600, its folder 0700) or upgraded by itself: it has one owner. A
    PostgreSQL database is shared, so somebody must decide: `tokenspool db upgrade`.
    """
    at = current(database)
    if at == tables.HEAD:
        return
    if database.kind == "sqlite":
        upgrade(database)
        return
    has = "has no tables of tokenspool yet" if at is None else f"is at revision {at}"
    msg = f"the database {database.name} {has}: run `tokenspool db upgrade`"
    raise Unavailable(msg)


def current(database: Database) -> str | None:
    """Give the revision the database is at; None when it has no tables of ours.

    Nothing is made or changed. Raises `Unavailable` for one that is newer or not of ours.
    """
    if database.path is not None:
        at = _of_file(database.path) if _holds_something(database.path) else None
    else:
        with database.read() as connection:
            at = of_connection(connection)
    if at is not None and not (at.isdigit() and int(at) <= int(tables.HEAD)):
        msg = (
            f"the database {database.name} was made by a newer tokenspool (revision {at});"
            " upgrade tokenspool"
        )
        raise Unavailable(msg)
    return at


def upgrade(database: Database) -> None:
    """Bring the database to this version, in one transaction: all of it, or nothing.

    Whoever else upgrades at the same time is waited for and then finds nothing to do.
    """
    if current(database) == tables.HEAD:
        return
    if database.path is not None:
        _make_file(database.path)
    with database.write() as connection:
        if database.kind == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_KEY)))
        _run(connection)


def _run(connection: sa.Connection) -> None:
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    # Alembic's options are templates: a % in a path would be taken for one.
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, tables.HEAD)


def _scripts() -> Path:
    """Find the migrations: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    msg = f"the migrations are missing beside {package}: install tokenspool again"
    raise Unavailable(msg)


def of_connection(connection: sa.Connection) -> str | None:
    """Give the revision of the database that a connection sees; None without tables of ours."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text(_VERSION)).scalar()


def _of_file(path: Path) -> str | None:
    # Not through our engine: that makes every file it opens one with a write-ahead log.
    try:
        with contextlib.closing(sqlite3.connect(reader_uri(path), uri=True)) as reader:
            reader.execute("PRAGMA busy_timeout=60000")
            names = {name for (name,) in reader.execute("SELECT name FROM sqlite_master")}
            if "alembic_version" in names:
                return next((str(version) for (version,) in reader.execute(_VERSION)), None)
    except sqlite3.Error as error:
        msg = f"the database {path} cannot be read: {error}"
        raise Unavailable(msg) from error
    if names:
        msg = f"{path} belongs to another program; name another database with --db or -o"
        raise Unavailable(msg)
    return None


def _holds_something(path: Path) -> bool:
    """Tell whether there is a database in the file; raises for what can never be one."""
    if path.name in {"", ":memory:"} or path.is_dir():
        msg = f"{path} is no file that could hold a database; name one with --db or -o"
        raise UsageError(msg)
    try:
        with path.open("rb") as file:
            head = file.read(len(_SQLITE_HEADER))
    except FileNotFoundError:
        return False
    except OSError as error:
        msg = f"the database {path} cannot be opened: {error.strerror}"
        raise Unavailable(msg) from error
    if head and head != _SQLITE_HEADER:
        msg = f"{path} is not a database of tokenspool; name another with --db or -o"
        raise Unavailable(msg)
    return bool(head)


def _make_file(path: Path) -> None:
    """Make the file before SQLite does: what it keeps is nobody else's to read."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        msg = f"the database {path} cannot be made: {error.strerror}"
        raise Unavailable(msg) from error
