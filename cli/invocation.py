"""What every command is told: which database and broker, and how to answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.printing import say

if TYPE_CHECKING:  # `--help` must not wait for SQLAlchemy and pydantic
    from tokenspool.database import Database
    from tokenspool.settings import Settings

#: Where a folder's jobs are kept.
SPOOL = Path(".tokenspool") / "spool.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """The options that stand everywhere."""

    db: str | None = None
    broker: str | None = None
    as_json: bool = False
    debug: bool = False

    def settings(self, **flags: object) -> Settings:
        """Give the settings with these flags on top."""
        from tokenspool.settings import load  # noqa: PLC0415 - see above

        return load(database_url=self.db, broker_url=self.broker, **flags)

    def database_url(self, settings: Settings, *, folder: Path | None, last: bool = False) -> str:
        """Give the URL of the database that is meant.

        `--db`, else the folder's own, else the settings', else that of the folder we stand in.
        With `last` the folder comes after the settings, as `enqueue` wants it.
        """
        own = _in_folder(folder) if folder is not None else None
        order = (
            (self.db, settings.database_url, own) if last else (self.db, own, settings.database_url)
        )
        chosen = next((url for url in order if url), None) or _in_folder(Path())
        return chosen if "://" in chosen else _of_path(Path(chosen))

    @contextlib.contextmanager
    def database(
        self, settings: Settings, *, folder: Path | None, last: bool = False
    ) -> Iterator[Database]:
        """Give the database that is meant as it is; close it at the end."""
        from tokenspool.database import Database  # noqa: PLC0415

        database = Database(self.database_url(settings, folder=folder, last=last))
        try:
            yield database
        finally:
            # Closing takes the file lock beside the database, which needs its folder.
            if database.path is None or database.path.parent.exists():
                database.close()

    @contextlib.contextmanager
    def opened(self, settings: Settings, *, folder: Path | None = None) -> Iterator[Database]:
        """Open the database that is meant, brought to this version; close it at the end.

        Raises `UsageError` when there is none.
        """
        from tokenspool import migrate  # noqa: PLC0415

        with self.database(settings, folder=folder) as database:
            _must_be_there(database)
            migrate.ensure(database)
            _bring_home(database)
            yield database

    @contextlib.contextmanager
    def taking(
        self, settings: Settings, *, folder: Path | None, last: bool = False, dry_run: bool = False
    ) -> Iterator[Database]:
        """Open the database to enqueue into; it is made if there is none, but not by a dry run."""
        from tokenspool import migrate  # noqa: PLC0415

        with self.database(settings, folder=folder, last=last) as database:
            if not dry_run or database.path is None or database.path.exists():
                migrate.ensure(database)
                _bring_home(database)
            yield database


def _must_be_there(database: Database) -> None:
    from tokenspool.errors import Unavailable, UsageError  # noqa: PLC0415

    if database.path is not None and not database.path.exists():
        msg = (
            f"there is no database {database.path}; `tokenspool run` or `enqueue` makes one,"
            " -o DIR or --db URL names another"
        )
        raise UsageError(msg)
    if database.path is not None and database.path.is_file() and not database.path.stat().st_size:
        msg = (
            f"the database {database.path} is an empty file of 0 bytes, its jobs are lost: put back"
            " a copy of it, or remove it and enqueue anew"
        )
        raise Unavailable(msg)


def _bring_home(database: Database) -> None:
    """After a move or a copy of its folder let the database's outputs lie where it is now."""
    from tokenspool import home  # noqa: PLC0415
    from tokenspool.database import DatabaseError  # noqa: PLC0415
    from tokenspool.errors import UsageError  # noqa: PLC0415
    from worker.lock import RunnerLock  # noqa: PLC0415

    if database.path is None:
        return
    here, there = home.folder_of(database), home.home_of(database)
    if here is None or here == there:
        return
    lock = RunnerLock(database.path)
    try:
        # Whoever works here may know the folder by the other name: a container does.
        with contextlib.suppress(OSError):
            lock.acquire()
        if moved := home.settle(database):
            say(f"this folder was {moved}; its jobs belong to {here} from now on")
    except (UsageError, DatabaseError) as error:
        if isinstance(error, DatabaseError) and error.passing:
            raise
        if there is not None:
            say(f"note: the outputs still belong to {there}, not to {here}: {error}")
    finally:
        lock.release()


def _in_folder(folder: Path) -> str:
    from tokenspool.database import sqlite_url  # noqa: PLC0415

    return sqlite_url((folder / SPOOL).absolute())


def _of_path(path: Path) -> str:
    """Take a plain path for what it can only mean: a SQLite file, or the folder of a run."""
    from tokenspool.database import sqlite_url  # noqa: PLC0415

    return _in_folder(path) if path.is_dir() else sqlite_url(path.absolute())
