"""A disk that is full: the run waits, says why, and goes on by itself when there is space again."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.stage import PATIENCE_S, Stage, ending, wait_until
from tests.crash.verifier import verify

LENGTHS = [300] * 32
MiB = 1024 * 1024


@contextlib.contextmanager
def _small_disk(path: Path, *, size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes."""
    path.mkdir()
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size={size},mode=0777"
    mounted = subprocess.run(
        [*root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        reason = f"no small disk can be mounted here: {mounted.stderr.decode().strip()}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    try:
        yield path
    finally:
        subprocess.run([*root, "umount", "--lazy", str(path)], check=True)


def _fill(path: Path, *, leave: int = 0) -> Path:
    """Fill the disk up to the last `leave` bytes; give the file to remove."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(file.tell() - leave)
    return filler


def _says(said: Path, words: bytes) -> bool:
    return words in said.read_bytes()


@pytest.mark.slow
def test_a_full_output_waits_and_goes_on(stage: Stage) -> None:
    """Streams go on into the journal; files follow when there is space again."""
    stage.db, said = stage.root / "spool.db", stage.root / "said"
    with _small_disk(stage.out, size=MiB):
        stage.enqueue(stage.prompts(LENGTHS))
        filler = _fill(stage.out)

        with ending(stage.start(stage.run_command("--streams", "32"), said=said)) as run:
            wait_until(lambda: _says(said, b"waiting: the output refuses"), of=run)
            assert _says(said, b"No space left on device")
            assert stage.simulator.stats()["generated"] == sum(LENGTHS)
            filler.unlink()
            assert run.wait(PATIENCE_S) == 0

        verify(stage.database, reference=stage.reference)
        assert stage.simulator.stats()["generated"] == sum(LENGTHS)


@pytest.mark.slow
def test_a_full_database_waits_and_goes_on(stage: Stage) -> None:
    """Streams pause, nothing that was received is dropped, and nothing is asked for again."""
    said = stage.root / "said"
    with _small_disk(stage.root / "disk", size=8 * MiB) as disk:
        stage.db = disk / "spool.db"
        stage.enqueue(stage.prompts(LENGTHS))

        with ending(stage.start(stage.run_command("--streams", "32"), said=said)) as run:
            wait_until(lambda: stage.simulator.stats()["generated"] > 32 * 20, of=run)
            filler = _fill(disk, leave=8192)
            wait_until(lambda: _says(said, b"waiting: the database"), of=run)
            assert _says(said, b"database or disk is full")
            # A second or so of every stream waits in memory by now.
            wait_until(lambda: stage.simulator.stats()["generated"] > 32 * 150, of=run)
            filler.unlink()
            assert run.wait(PATIENCE_S) == 0

        verify(stage.database, reference=stage.reference)
        assert stage.simulator.stats()["generated"] == sum(LENGTHS)
