"""Where a folder with its database inside lies: after a move or a copy its outputs are in it.

The database holds absolute paths, and `home`, a file beside it, the place that they were made for.
Where the two places differ the paths are changed in one transaction, then the file: whoever dies
in between finds nothing more to change.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.errors import Unavailable
from tokenspool.names import RESERVED, word_from

_o = t.output.c


def folder_of(database: Database) -> str | None:
    """Give the real path of the folder that a database belongs to; None without one."""
    if database.path is None or database.path.parent.name != RESERVED:
        return None
    # What is only linked into a folder is at home elsewhere.
    return None if database.path.parent.is_symlink() else str(database.path.parent.parent.resolve())


def home_of(database: Database) -> str | None:
    """Give the place that a folder's paths were made for; None where nothing says so."""
    with contextlib.suppress(OSError):
        return os.fsdecode(_file(database).read_bytes().removesuffix(b"\n")) or None
    return None


def settle(database: Database) -> str | None:
    """Let a folder's outputs lie where the folder is now; give the place that they were in.

    None when that is no other. Raises `DatabaseError` when the database cannot be written, and
    `Unavailable` when two outputs would become one.
    """
    here = folder_of(database)
    if here is None or (home := home_of(database)) == here:
        return None
    with database.read() as connection:
        roots = _outputs(connection)
    # Folders that were made without the file are known by their output, however it is spelled.
    home = home or _same(roots, here)
    if home is None and roots:
        return None
    moved = home is not None and bool(_changes(roots, home, here))
    if moved:
        with database.write() as connection:
            _move(connection, home or here, here, database.name)
    _write(_file(database), here)
    return home if moved and os.path.realpath(home or here) != here else None


def _outputs(connection: sa.Connection) -> dict[int, str]:
    return {row.id: row.root for row in connection.execute(sa.select(_o.id, _o.root))}


def _same(roots: dict[int, str], here: str) -> str | None:
    if here in roots.values():
        return here
    return next((root for root in roots.values() if os.path.realpath(root) == here), None)


def _changes(roots: dict[int, str], home: str, here: str) -> dict[int, str]:
    """Give the new roots of the outputs at or below `home`."""
    inside = _is_within(here, home)
    new = {
        output: os.path.normpath(f"{here.rstrip('/')}/{root[len(home) :]}")
        for output, root in roots.items()
        # Moved into itself, what is in the new place is there already: we died before the file.
        if _is_within(root, home) and not (inside and _is_within(root, here))
    }
    return {output: root for output, root in new.items() if root != roots[output]}


def _move(connection: sa.Connection, home: str, here: str, name: str) -> None:
    roots = _outputs(connection)
    changes = _changes(roots, home, here)
    if set(changes.values()) & {roots[output] for output in roots.keys() - changes.keys()}:
        msg = (
            f"the database {name} has outputs in {home} and in {here}, which would be one folder:"
            f" move it back to {home}"
        )
        raise Unavailable(msg)
    for output, root in changes.items():
        connection.execute(sa.update(t.output).where(_o.id == output).values(root=root))
    _rename_batch(connection, word_from(Path(home).name), word_from(Path(here).name))


def _rename_batch(connection: sa.Connection, old: str, new: str) -> None:
    """Call the batch after its folder again: else the same inputs would be those of another one."""
    b = t.batch.c
    if connection.execute(sa.select(b.id).where(b.name == new)).first() is None:
        connection.execute(sa.update(t.batch).where(b.name == old).values(name=new))


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _file(database: Database) -> Path:
    return (database.path or Path()).with_name("home")


def _write(file: Path, here: str) -> None:
    """Write the file anew, whole or not at all; where it cannot be, the next one does it."""
    with contextlib.suppress(OSError):
        handle, made = tempfile.mkstemp(prefix="home.", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as new:
                new.write(os.fsencode(here) + b"\n")
                new.flush()
                os.fsync(handle)
            Path(made).replace(file)
        except BaseException:
            Path(made).unlink(missing_ok=True)
            raise
