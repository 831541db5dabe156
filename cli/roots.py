"""The place that texts go to, checked before anything is enqueued for it."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from cli.invocation import SPOOL
from tokenspool.errors import UsageError
from tokenspool.roots import checked_url, is_url

#: As a path, a URL loses one of its slashes.
_LOOKS_LIKE_A_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/").match


def checked_output(output: str, *, make: bool) -> str:
    """Give the root of an output, a folder or an object store's; raises `UsageError`.

    Of a store only the name is checked: the workers have the credentials, and may be the only ones.
    """
    if is_url(output):
        return checked_url(output)
    return checked_root(Path(output), make=make)


def checked_root(folder: Path, *, make: bool) -> str:
    """Give the folder's real name; raises `UsageError` if texts cannot be written there.

    A link is refused: texts must not land somewhere else because of what somebody put there. Links
    above it are followed, so that a folder has one name.
    """
    if _LOOKS_LIKE_A_URL(str(folder)):
        msg = (
            "-o is the folder of the run here, not a URL: enqueue with -o s3://BUCKET/PREFIX --db"
            " DIR, then work it off with `tokenspool run -o DIR`"
        )
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
