"""What lies in an output's folder already: publishing a new job must not replace it unseen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from tokenspool.inputs.spec import JobSpec
from tokenspool.names import name_key
from tokenspool.roots import is_url

#: Names of files that are remembered; a bigger folder is asked for each file instead.
_REMEMBERED = 200_000
#: Folders that are remembered; an input may name a different one on every line.
_FOLDERS = 1_000


class Disk:
    """The files below an output's root, as this machine sees them. Each folder is listed once."""

    def __init__(self, root: str) -> None:
        """Nothing is looked at yet. Only a folder is: an object store refuses at publishing."""
        self._root = None if is_url(root) else root
        #: The keys of a folder's names; None for one that is not listed.
        self._listed: dict[str, frozenset[str] | None] = {}
        self._names = 0

    def taken(self, specs: Sequence[JobSpec]) -> dict[str, str]:
        """Give what lies where these jobs would write, by the custom_id of the job."""
        if self._root is None:
            return {}
        return {spec.custom_id: found for spec in specs if (found := self._at(spec.name))}

    def _at(self, name: str) -> str | None:
        """Give the path of the file that has this name, whatever it is; None if there is none."""
        below, _, last = name.rpartition("/")
        keys = self._keys(below)
        if keys is not None and name_key(last) not in keys:
            return None
        # Asked of the disk: only it knows which names it takes for one.
        path = f"{self._root}/{name}"
        return path if os.path.lexists(path) else None

    def _keys(self, below: str) -> frozenset[str] | None:
        if below not in self._listed:
            if len(self._listed) >= _FOLDERS or self._names >= _REMEMBERED:
                self._listed.clear()
                self._names = 0
            keys = self._listed[below] = _keys_in(f"{self._root}/{below}")
            self._names += len(keys or ())
        return self._listed[below]


def _keys_in(folder: str) -> frozenset[str] | None:
    """List a folder; None if it is too big for that, or does not let us."""
    keys: set[str] = set()
    # Not there, or no folder: nothing can lie in it.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    keys.add(name_key(entry.name))
                    if len(keys) >= _REMEMBERED:
                        return None
        except PermissionError:
            return None
    return frozenset(keys)
