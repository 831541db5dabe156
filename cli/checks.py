"""What `doctor` looks at on this machine: settings, database, disk, limits."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from cli.printing import size
from tokenspool import migrate, tables
from tokenspool.database import Database, sqlite_is_safe
from tokenspool.errors import TokenspoolError
from tokenspool.settings import FILE, Settings
from worker.wiring import FILES_PER_STREAM, OTHER_FILES

State = Literal["ok", "warning", "failed", "skipped"]
#: Below this much free disk a night of long texts may end early.
_LITTLE_DISK = 1024**3
#: What is written to see whether there is room: more than a file's own block.
_SAMPLE = bytes(64 * 1024)
#: A write that every database of ours can do and that changes nothing.
_TOUCH = "UPDATE alembic_version SET version_num = version_num"
_RESTORE = "restore it from a copy, or begin in a new folder; published files stay as they are"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    #: What to do about it, one sentence; empty when nothing is to be done.
    action: str = ""


Tell = Callable[[Check], None]


def of_settings(settings: Settings) -> Check:
    """Tell where the settings come from."""
    said = len(settings.model_fields_set)
    where = f"{FILE} read" if Path(FILE).exists() else f"no {FILE} in this folder"
    return Check(name="settings", state="ok", found=f"{where}; {said} set, the others by default")


def of_sqlite() -> Check:
    """Tell whether this SQLite can corrupt a database that two connections write to."""
    version = sqlite3.sqlite_version
    if sqlite_is_safe():
        return Check(name="sqlite", state="ok", found=version)
    return Check(
        name="sqlite",
        state="warning",
        found=f"{version} has the WAL-reset bug (mended in 3.51.3, 3.50.7 and 3.44.6)",
        action=(
            "nothing must be done: all writes and checkpoints go through one file lock; a Python"
            " with a newer SQLite writes beside others without it"
        ),
    )


def of_database(database: Database) -> Check:
    """Tell whether the database is there, whole, of our version, and can be written to."""
    name = database.name
    try:
        at = migrate.current(database)
        if at == tables.HEAD:
            return _of_contents(database)
    except TokenspoolError as error:
        return _failed(
            "database", str(error), "mend that, or name another database: -o DIR or --db URL"
        )
    if database.kind == "sqlite":
        found = f"at revision {at}" if at else "without tables yet"
        found = (
            f"{name}, {found}: `tokenspool run` or `enqueue` brings it to revision {tables.HEAD}"
        )
        return Check(name="database", state="ok", found=found)
    found = f"{name}, {f'revision {at}' if at else 'without tables'}"
    return _failed("database", found, "tokenspool db upgrade")


def _of_contents(database: Database) -> Check:
    """Look into a database of our version; raises `Unavailable` if it cannot be used."""
    name = database.name
    with database.read() as connection:
        if database.kind == "sqlite":
            said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if said != "ok":
                found = f"{name} is damaged: {' '.join(str(said).split())}"
                return _failed("database", found, _RESTORE)
        has = sa.inspect(connection).get_table_names()
    if lost := sorted(tables.metadata.tables.keys() - set(has)):
        return _failed("database", f"{name} lacks its tables {', '.join(lost)}", _RESTORE)
    with contextlib.suppress(_EnoughError), database.write() as connection:
        connection.exec_driver_sql(_TOUCH)
        raise _EnoughError
    return Check(name="database", state="ok", found=f"{name}, revision {tables.HEAD}")


class _EnoughError(Exception):
    """Rolls a write back that was only tried."""


def of_disk(folder: Path) -> Check:
    """Tell whether texts can be written to a folder, and how much room they have."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    found = f"{size(free)} free at {nearest}"
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(_SAMPLE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        found = f"{nearest} cannot be written to: {error.strerror} ({size(free)} free)"
        return _failed("disk", found, "free some room, or name a folder that can be: -o DIR")
    if free == 0:
        return _failed("disk", found, "free some room, or name a folder on another disk: -o DIR")
    if free < _LITTLE_DISK:
        action = "free some: text is kept twice, in the journal and in its file"
        return Check(name="disk", state="warning", found=found, action=action)
    return Check(name="disk", state="ok", found=found)


def _failed(name: str, found: str, action: str) -> Check:
    return Check(name=name, state="failed", found=found, action=action)


def of_files(streams: int) -> Check:
    """Tell whether the open files that the streams need are allowed."""
    needed = FILES_PER_STREAM * streams + OTHER_FILES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = "without limit" if hard in {-1, resource.RLIM_INFINITY} else f"{hard:,} allowed"
    found = f"{allowed}, {needed:,} needed for {streams:,} streams"
    if hard not in {-1, resource.RLIM_INFINITY} and hard < needed:
        action = (
            f"raise `ulimit -n` or lower --streams to {(hard - OTHER_FILES) // FILES_PER_STREAM}"
        )
        return Check(name="open files", state="failed", found=found, action=action)
    return Check(name="open files", state="ok", found=found)
