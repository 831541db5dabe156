"""The next worker has another disk: the journal is all that it needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.crash.stage import Stage, ending, wait_until
from tests.crash.verifier import snapshot, verify

pytestmark = pytest.mark.slow
JOBS = 16


def test_a_worker_without_the_others_disk_rebuilds_from_the_journal(stage: Stage) -> None:
    """The first is killed in the middle, and its folder is nowhere to be seen any more."""
    stage = replace(stage, db=stage.root / "spool.db")
    stage.enqueue(stage.prompts([240] * JOBS))

    with ending(stage.start(stage.run_command("--streams", str(JOBS)))) as run:
        wait_until(lambda: stage.simulator.stats()["generated"] > JOBS * 120, of=run)
        run.kill()
    assert any(part.stat().st_size for part in stage.out.glob("*.part"))
    committed = snapshot(verify(stage.database, drained=False, reference=stage.reference))
    first = stage.out.rename(stage.root / "the first one's disk")
    left = {path.name: path.read_bytes() for path in first.iterdir()}

    stage.done(stage.run_command())

    verify(stage.database, before=committed, reference=stage.reference)
    # Begun anew, all of it would be generated beside what the first one had.
    assert stage.simulator.stats()["generated"] < JOBS * (240 + 90)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == left
    assert not list(stage.out.glob("*.part"))
