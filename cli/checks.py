"""What `doctor` looks at on this machine: settings, database, disk, limits."""

from __future__ import annotations

import resource
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cli.printing import size
from tokenspool import migrate, tables
from tokenspool.database import Database, sqlite_is_safe
from tokenspool.errors import TokenspoolError
from tokenspool.settings import FILE, Settings
from worker.wiring import FILES_PER_STREAM, OTHER_FILES

State = Literal["ok", "warning", "failed", "skipped"]
#: Below this much free disk a night of long texts may end early.
_LITTLE_DISK = 1024**3


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
    """Tell whether the database is there and has our version."""
    name = database.name
    try:
        at = migrate.current(database)
    except TokenspoolError as error:
        return Check(name="database", state="failed", found=str(error), action="see the sentence")
    if at == tables.HEAD:
        return Check(name="database", state="ok", found=f"{name}, revision {at}")
    if database.kind == "sqlite":
        found = f"{name}, {f'revision {at}' if at else 'not there yet'}"
        return Check(name="database", state="ok", found=f"{found}; run or enqueue brings it to us")
    found = f"{name}, {f'revision {at}' if at else 'without tables'}"
    return Check(name="database", state="failed", found=found, action="tokenspool db upgrade")


def of_disk(folder: Path) -> Check:
    """Tell how much room the texts have."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    found = f"{size(free)} free at {nearest}"
    if free < _LITTLE_DISK:
        action = "free some: text is kept twice, in the journal and in its file"
        return Check(name="disk", state="warning", found=found, action=action)
    return Check(name="disk", state="ok", found=found)


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
