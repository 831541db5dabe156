"""Streams that are cut, that stall and that are cancelled leave nothing open behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.watch import Timeouts
from simulator import process
from simulator.faults import Faults
from simulator.rules import Rule, When
from simulator.settings import SimSettings
from tests.crash.stage import Stage, wait_until
from tests.crash.verifier import verify
from tokenspool.database import Database, sqlite_url
from worker.local import LocalRun, Progress, RunOptions
from worker.wiring import FILES_PER_STREAM, Tuning

STREAMS = 8
#: Connections of the database's pool, its files, pipes of the loop, a lookup or two.
OTHER_FILES = 40


@dataclass(slots=True)
class _Held:
    """What a process holds open: the most that was seen, and what it is now."""

    files: int = 0
    tasks: int = 0
    looks: int = field(default=0, repr=False, compare=False)

    @classmethod
    def now(cls) -> _Held:
        gc.collect()
        return cls(files=_open_files(), tasks=len(asyncio.all_tasks()))

    def look(self, _progress: Progress) -> None:
        """Keep the most; it is shown the progress, again and again."""
        self.looks += 1
        self.files = max(self.files, _open_files())
        self.tasks = max(self.tasks, len(asyncio.all_tasks()))


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def _work(stage: Stage, most: _Held) -> None:
    database = Database(sqlite_url(stage.database))
    timeouts = Timeouts(first_byte_s=5, idle_s=0.3)
    tuning = Tuning(database=database, streams=STREAMS, timeouts=timeouts)
    result = await LocalRun(RunOptions(tuning=tuning, on_progress=most.look)).run()
    assert result.exit_code == 0, result.reason
    database.close()


async def _cancel(stage: Stage) -> None:
    """Take jobs away while their streams are alive, as a person does."""
    await asyncio.to_thread(wait_until, lambda: stage.simulator.stats()["live"] == STREAMS)
    await asyncio.to_thread(
        stage.done, stage.command("cancel", "-o", stage.out, "--batch", "doomed")
    )


async def _check(stage: Stage, *, jobs: int) -> None:
    stage.enqueue(stage.prompts([60] * 2, name="first"))
    await _work(stage, _Held())  # what is loaded once, is loaded now
    doomed = stage.enqueueing(stage.prompts([10_000] * jobs, name="doomed"))
    stage.done(stage.command(*map(str, doomed), "--batch", "doomed"))
    stage.enqueue(stage.prompts([60] * jobs))
    before, most = _Held.now(), _Held()

    async with asyncio.TaskGroup() as group:
        group.create_task(_cancel(stage))
        group.create_task(_work(stage, most))

    assert most.looks > 2
    assert most.files <= before.files + FILES_PER_STREAM * STREAMS + OTHER_FILES
    assert most.tasks <= before.tasks + 4 * STREAMS + 20
    assert _Held.now() == before
    assert _threads() == set()
    state = verify(stage.database, drained=False, reference=stage.reference)
    assert state.by_state == {"done": 2 + jobs, "cancelled": jobs}


def _threads() -> set[str]:
    """Give the names of threads that are ours; the loop keeps some of its own."""
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if name.startswith(("journal", "output"))}


def _simulator() -> SimSettings:
    """Give an endpoint where two of three answers come to grief at their 20th token."""
    rules = (
        Rule(when=When(every=3), fault=Faults(cut_after_tokens=20)),
        Rule(when=When(every=7), fault=Faults(stall_after_tokens=20)),
        Rule(when=When(every=4), fault=Faults(end_after_tokens=20)),
    )
    return SimSettings(rate=600, rules=rules)


@pytest.mark.slow
async def test_a_hundred_broken_streams_leave_nothing_open(tmp_path: Path) -> None:
    """Files, sockets, tasks and threads are what they were, and never grow on the way."""
    with process.start(_simulator()) as simulator:
        await _check(Stage(root=tmp_path, simulator=simulator), jobs=80)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_thousand_broken_streams_leave_nothing_open(tmp_path: Path) -> None:
    """The same, ten times."""
    with process.start(_simulator()) as simulator:
        await _check(Stage(root=tmp_path, simulator=simulator), jobs=700)
