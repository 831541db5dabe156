"""Workers of a fleet die at random moments, one sleeps longer than its lease: the work is done."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from simulator.settings import SimSettings
from tests.crash.fleet_places import MakeStage, make_stage
from tests.crash.fleet_stage import FleetStage, Orphans, Process
from tests.crash.reporting import Report
from tests.crash.stage import PATIENCE_S, wait_until

__all__ = ["make_stage"]

#: The promise for a lease of 45 s; a machine under other load may take as long with a short one.
WITHIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done to how much."""

    jobs: int
    tokens: int
    kills: int
    #: From one kill to the next, at most.
    pause_s: float
    #: Streams of each worker that dies, and of the one that sleeps.
    streams: int
    sleepers: int
    lease_s: float
    #: Tokens generated for each that is needed, at most; short answers lose more in proportion.
    goodput: float
    patience_s: float = PATIENCE_S


SAMPLE = Plan(
    jobs=60, tokens=300, kills=4, pause_s=1, streams=8, sleepers=1, lease_s=3, goodput=1.1
)
#: Every slot is always taken, so the jobs are short and few come back at once: what is measured is
#: how long the dead are not missed, not how long the queue is.
SOAK = Plan(
    jobs=2000,
    tokens=200,
    kills=50,
    pause_s=10,
    streams=12,
    sleepers=12,
    lease_s=45,
    goodput=1.05,
    patience_s=1800,
)


@dataclass(slots=True, kw_only=True)
class Mischief:
    """Kills workers, and keeps an eye on what becomes of their jobs."""

    stage: FleetStage
    plan: Plan
    chance: random.Random
    workers: list[Process] = field(default_factory=list)
    open: list[Orphans] = field(default_factory=list)
    #: After how many seconds others had gone on with all jobs of one that died.
    waits: list[float] = field(default_factory=list)
    taken: int = 0

    def start(self) -> Process:
        """Start one more worker that will die."""
        plan = self.plan
        self.workers.append(self.stage.worker(streams=plan.streams, lease_s=plan.lease_s))
        return self.workers[-1]

    def kill_one(self) -> None:
        """Kill one of those that have text of living streams, and start another in its place."""
        busy: list[Process] = []

        def found() -> bool:
            busy[:] = [one for one in self.workers if self.stage.orphans(one).jobs]
            return bool(busy) or self.stage.is_done()

        self.wait(found)
        assert busy, "all was done before the last kill"
        victim = self.chance.choice(busy)
        until = time.monotonic() + self.chance.uniform(0, self.plan.pause_s)
        self.wait(lambda: victim.poll() is not None or time.monotonic() >= until)
        assert victim.poll() is None, "a worker ended by itself"
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        # What was committed before it died is seen only now.
        self.watch(self.stage.orphans(victim))
        self.workers.remove(victim)
        self.start()

    def watch(self, orphans: Orphans) -> None:
        """Keep an eye on somebody's jobs from now on."""
        self.open.append(orphans)
        self.taken += len(orphans.jobs)

    def look(self) -> None:
        """See whose jobs go on by now; fail for those that have waited too long."""
        for orphans in list(self.open):
            waited = time.monotonic() - orphans.since
            if self.stage.go_on(orphans):
                self.open.remove(orphans)
                self.waits.append(waited)
            assert waited < WITHIN_S, "jobs of a dead worker lie still"

    def wait(self, holds: Callable[[], object]) -> None:
        """Return once it holds, with an eye on the jobs of the dead."""

        def looked() -> object:
            self.look()
            return holds()

        wait_until(looked, patience_s=self.plan.patience_s)


def _play(stage: FleetStage, plan: Plan, report: Report, *, sampled: bool) -> None:
    stage.fill([plan.tokens] * plan.jobs)
    mischief = Mischief(stage=stage, plan=plan, chance=random.Random(plan.kills))
    # The sleeper first: the others have room for all that a sample has, and would leave it none.
    sleeper = stage.worker(streams=plan.sleepers, lease_s=plan.lease_s)
    mischief.wait(lambda: len(stage.orphans(sleeper).jobs) == plan.sleepers)
    sleeper.send_signal(signal.SIGSTOP)
    asleep = stage.orphans(sleeper)
    mischief.watch(asleep)
    mischief.start()
    mischief.start()
    for number in range(plan.kills):
        mischief.kill_one()
        if number == plan.kills // 2:
            mischief.wait(lambda: stage.go_on(asleep))
            sleeper.send_signal(signal.SIGCONT)
    mischief.wait(stage.is_done)
    mischief.look()

    state = stage.judge(sampled=sampled)
    goodput = stage.goodput()
    report(
        f"{plan.kills} kills took {mischief.taken} live jobs, all gone on with within"
        f" {max(mischief.waits):.1f} s (lease {plan.lease_s:g} s); {goodput}"
    )
    assert len(mischief.waits) == plan.kills + 1
    assert mischief.taken > plan.kills
    # It was declared dead in its sleep, and works on under another name.
    names = {row["id"] for row in stage.rows("SELECT id FROM worker WHERE pid = %s", sleeper.pid)}
    assert len(names) == 2
    assert {attempt["outcome"] for attempt in state.attempts} >= {"finished", "crashed"}
    assert goodput.ratio <= plan.goodput, goodput


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_fleet_outlives_four_kills_and_a_sleep(make_stage: MakeStage, report: Report) -> None:
    """60 jobs: each token once and in its place, hardly one asked for twice, no job forgotten."""
    _play(make_stage(SimSettings(rate=100, sampling=True)), SAMPLE, report, sampled=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sampled", [False, True], ids=["document", "sampled"])
def test_a_fleet_outlives_fifty_kills_and_a_sleep(
    make_stage: MakeStage, report: Report, *, sampled: bool
) -> None:
    """2,000 jobs, with the lease that everybody has: a dead worker's jobs go on within 60 s."""
    _play(make_stage(SimSettings(rate=50, sampling=sampled)), SOAK, report, sampled=sampled)
