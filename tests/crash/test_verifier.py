"""The verifier itself: what it cannot see would be found by nobody."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.sources.scripted import Script, cut_after
from tests.crash.points import fault_points
from tests.crash.verifier import WrongError, changed, look, snapshot, verify
from tests.unit.pipeline.bench import Bench, numbered
from tokenspool.store.endpoints import Known

DOCUMENT = "".join(numbered(200)).encode()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """Give a folder with one published job, another that was cut, and a third that is fresh."""
    script = Script(tokens=lambda _: numbered(200), cuts=[None, cut_after(20), *[cut_after(0)] * 9])
    bench = Bench(tmp_path, script, known=Known(resumes_by="continue_final_message"))
    bench.enqueue("whole", resume="prefill")
    await bench.run_once()
    bench.enqueue("cut", resume="prefill")
    await bench.run_once()
    bench.enqueue("fresh")
    _execute(tmp_path, "DELETE FROM job_count WHERE state <> ''")
    _execute(
        tmp_path,
        "INSERT INTO job_count (batch_id, state, jobs, bytes, generated, needed, rebilled)"
        " SELECT batch_id, state, count(*), 0, 0, 0, 0 FROM job GROUP BY state",
    )
    return tmp_path


def _execute(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "spool.db")) as connection, connection:
        connection.execute(statement)


async def test_a_right_state_has_no_problems(folder: Path) -> None:
    """It complains of nothing where nothing is wrong."""
    state = verify(folder / "spool.db", drained=False, reference=lambda _: DOCUMENT)

    assert state.by_state == {"done": 1, "waiting": 1, "pending": 1}


def _damage(statement: str) -> Callable[[Path], object]:
    return lambda folder: _execute(folder, statement)


def _grow(folder: Path) -> None:
    with (folder / "out" / "whole.md").open("ab") as file:
        file.write(b"!")


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "gap": (
        "a gap at byte",
        _damage("UPDATE segment SET start = start + 1 WHERE job_id = 2"),
    ),
    "overlap": (
        "an overlap at byte",
        _damage("INSERT INTO segment SELECT job_id, edition, kind, start + 1, seq, crc, data"
                " FROM segment WHERE job_id = 2 LIMIT 1"),
    ),
    "checksum": ("wrong checksum", _damage("UPDATE segment SET crc = crc + 1")),
    "other text": ("its text is wrong", _damage("UPDATE segment SET data = zeroblob(5)")),
    "checkpoint behind": ("the checkpoint says", _damage("UPDATE checkpoint SET text = text - 1")),
    "edition ahead": ("ahead of its checkpoint", _damage("UPDATE segment SET edition = 7")),
    "epoch": ("in its checkpoint", _damage("UPDATE job SET epoch = epoch + 1")),
    "no checkpoint": ("no checkpoint", _damage("DELETE FROM checkpoint")),
    "counts": ("job_count says", _damage("UPDATE job_count SET jobs = jobs + 1 WHERE jobs > 0")),
    "bytes": ("bytes, the text is", _damage("UPDATE job_count SET bytes = bytes + 1")),
    "digest": ("another length or digest", _damage("UPDATE job SET sha256 = zeroblob(32)")),
    "owner": ("still owned", _damage("UPDATE job SET owner = 'w'")),
    "published too early": ("is not complete", _damage("UPDATE job SET state = 'failed'")),
    "file missing": ("is missing", lambda folder: (folder / "out" / "whole.md").unlink()),
    "file longer": ("differs from the journal", _grow),
    "part left": (
        "was left behind",
        lambda folder: (folder / "out" / "whole.md.e1.part").write_bytes(b""),
    ),
    "part of the future": (
        "of an epoch that never was",
        lambda folder: (folder / "out" / "cut.md.e99.part").write_bytes(b""),
    ),
    "stranger": ("belongs to no job", lambda folder: (folder / "out" / "x").write_bytes(b"")),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
async def test_every_damage_is_seen(folder: Path, damage: str) -> None:
    """Each way in which a state can be wrong is named."""
    said, do = DAMAGES[damage]
    do(folder)

    with pytest.raises(WrongError, match=said):
        verify(folder / "spool.db", drained=False, reference=lambda _: DOCUMENT)


async def test_a_run_that_is_not_drained_is_seen(folder: Path) -> None:
    """Jobs that are not done are counted by state."""
    with pytest.raises(WrongError, match=r"not all jobs are done: .*'waiting': 1"):
        verify(folder / "spool.db", reference=lambda _: DOCUMENT)


async def test_committed_text_that_changes_is_seen(folder: Path) -> None:
    """Law 6: what was committed stays, to the byte, within its edition."""
    before = snapshot(look(folder / "spool.db"))
    _execute(folder, "DELETE FROM segment WHERE job_id = 1")
    _execute(folder, "UPDATE segment SET data = zeroblob(length(data)) WHERE job_id = 2")

    problems = changed(before, look(folder / "spool.db"))

    assert len([p for p in problems if "are left" in p]) == 1
    assert any("have changed" in p for p in problems)


def test_fault_points_are_found_in_the_source() -> None:
    """The crash suite visits what the code names; these have been there from the beginning."""
    assert {"after_claim", "before_commit", "after_commit", "after_rename", "after_done"} <= set(
        fault_points()
    )
