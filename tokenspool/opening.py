"""Which database a program means, and opening it."""

from __future__ import annotations

from pathlib import Path

from tokenspool import migrate
from tokenspool.database import Database, sqlite_url
from tokenspool.errors import UsageError
from tokenspool.settings import load

#: Where a folder's jobs are kept.
SPOOL = Path(".tokenspool") / "spool.db"
#: A URL, a SQLite file, the folder of a run, or one that is open already; None: as it is set.
Where = str | Path | Database | None


def url_of(where: str | Path | None) -> str:
    """Give the URL that is meant: this one, else the settings', else the folder's we stand in."""
    chosen = where or load().database_url or Path()
    if isinstance(chosen, str) and "://" in chosen:
        return chosen
    path = Path(chosen).absolute()
    return sqlite_url(path / SPOOL if path.is_dir() else path)


def open_database(where: Where, *, make: bool) -> Database:
    """Open the database that is meant, with this version's tables in it.

    A SQLite file that is not there is made if `make`, else it is a `UsageError`. Close it in the
    end, unless it was handed in.
    """
    database = where if isinstance(where, Database) else Database(url_of(where))
    if not make and database.path is not None and not database.path.exists():
        msg = f"there is no database {database.path}; tokenspool.enqueue makes one"
        raise UsageError(msg)
    migrate.ensure(database)
    return database
