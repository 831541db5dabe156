"""The folder that texts go into, checked before anything is enqueued for it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cli.invocation import SPOOL
from tokenspool.errors import UsageError


def checked_root(folder: Path, *, make: bool) -> str:
    """Give the folder's real name; raises `UsageError` if texts cannot be written there.

    A link is refused: texts must not land somewhere else because of what somebody put there. Links
    above it are followed, so that a folder has one name.
    """
    if "://" in str(folder) or ":/" in str(folder):
        msg = f"-o {folder}: only folders for now; other outputs follow in a later version"
        raise UsageError(msg)
    root = folder.absolute()
    for place in (root, root / SPOOL.parent):
        if place.is_symlink():
            msg = f"-o {folder}: {place} is a link to {place.readlink()}; name the folder itself"
            raise UsageError(msg)
    try:
        if make:
            # The texts are personal data until somebody allows others to read them.
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Asked by doing: neither a read-only disk nor a server's rights are seen in the mode.
            with tempfile.TemporaryFile(dir=root):
                pass
        elif not os.access(nearest := _nearest(root), os.W_OK | os.X_OK):
            msg = f"-o {folder}: {nearest} is not writable; choose another folder"
            raise UsageError(msg)
    except OSError as error:
        msg = f"-o {folder}: it cannot be written to: {error.strerror}; choose another folder"
        raise UsageError(msg) from error
    return os.path.realpath(root)


def _nearest(root: Path) -> Path:
    """Give the folder itself, or the first above it that is there."""
    return next(place for place in (root, *root.parents) if place.exists())
