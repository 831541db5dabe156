"""One runner per SQLite database, by flock on a file that tells its process id."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from tokenspool.errors import UsageError

#: Who only asks holds it for a moment; a runner holds it for longer than all these together.
_ATTEMPTS, _PAUSE_S = 5, 0.05


class RunnerLock:
    """Held from before the first job is enqueued until the process ends; death releases it."""

    def __init__(self, database: Path) -> None:
        """Lie beside the database file."""
        self._path = database.with_name(database.name + ".runner")
        self._file: int | None = None

    def is_free(self) -> bool:
        """Tell whether nobody runs here. What cannot be asked counts as taken."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def acquire(self, *, pause: Callable[[float], None] = time.sleep) -> None:
        """Take the lock; UsageError if another process works here."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(handle, pause)
        except BlockingIOError as error:
            pid = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            msg = (
                f"already running here, pid {pid}: {self._path.parent} is worked on by one run at a"
                " time; wait for it, or stop it and run again"
            )
            raise UsageError(msg) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._file = handle

    def release(self) -> None:
        """Let the next runner in."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _lock(handle: int, pause: Callable[[float], None]) -> None:
    """Take it; raises `BlockingIOError` when it is held for longer than somebody asks."""
    for again in range(_ATTEMPTS):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if again == _ATTEMPTS - 1:
                raise
            pause(_PAUSE_S)
        else:
            return
