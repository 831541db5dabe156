"""The runner's lock: one at a time, and asked about without being in the way."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tokenspool.errors import UsageError
from worker.lock import RunnerLock


def test_it_is_free_before_and_after_a_runner(tmp_path: Path) -> None:
    """Asking makes no file and takes nothing away."""
    lock, other = RunnerLock(tmp_path / "spool.db"), RunnerLock(tmp_path / "spool.db")

    assert other.is_free()
    assert not list(tmp_path.iterdir())
    lock.acquire()
    assert not other.is_free()
    with pytest.raises(UsageError, match="already running here, pid"):
        other.acquire(pause=lambda _: None)
    lock.release()
    assert other.is_free()
    other.acquire()
    other.release()


def test_somebody_who_only_asks_turns_no_runner_away(tmp_path: Path) -> None:
    """`watch tokenspool status` holds the lock for a moment, just when a run begins."""
    lock = RunnerLock(tmp_path / "spool.db")
    (tmp_path / "spool.db.runner").touch()
    with (tmp_path / "spool.db.runner").open("rb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)

        lock.acquire(pause=lambda _: fcntl.flock(asking, fcntl.LOCK_UN))

    assert not RunnerLock(tmp_path / "spool.db").is_free()
    lock.release()
