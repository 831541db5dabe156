"""One runner per SQLite database, by flock on a file that tells its process id."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tokenspool.errors import UsageError


class RunnerLock:
    """Held from before the first job is enqueued until the process ends; death releases it."""

    def __init__(self, database: Path) -> None:
        """Lie beside the database file."""
        self._path = database.with_name(database.name + ".runner")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock; UsageError if another process works here."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
