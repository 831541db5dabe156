"""A PostgreSQL that stands still and is restarted, under many streams that come as fast as read."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.meter import resident
from simulator import process
from simulator.settings import SimSettings
from tests.crash.fleet_postgres import own_postgres
from tests.crash.fleet_stage import FleetStage, Process, fleet_stage
from tests.crash.reporting import Report
from tests.crash.stage import wait_until

MiB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much comes, and for how long the database stands still."""

    streams: int
    tokens: int
    budget_bytes: int
    #: Beside the budget: the objects that hold the text.
    margin_bytes: int
    stall_s: float
    patience_s: float = 120.0


#: All of the text is twice to ten times what the process may grow by.
SAMPLE = Plan(streams=50, tokens=20_000, budget_bytes=MiB, margin_bytes=3 * MiB, stall_s=3)
SOAK = Plan(
    streams=500,
    tokens=40_000,
    budget_bytes=16 * MiB,
    margin_bytes=24 * MiB,
    stall_s=60,
    patience_s=900,
)


def _play(root: Path, plan: Plan, report: Report) -> None:
    with (
        own_postgres() as postgres,
        process.start(SimSettings()) as simulator,
        fleet_stage(root, postgres.url, simulator) as stage,
    ):
        stage.fill([plan.tokens] * plan.streams)
        worker = stage.worker(streams=plan.streams, budget_bytes=plan.budget_bytes)
        wait_until(lambda: len(stage.orphans(worker).jobs) == plan.streams, of=worker)
        before = resident(peak=True, pid=worker.pid)
        with postgres.suspended():
            began = stage.simulator.stats()["generated"]
            came = _stand_still(stage, worker, plan.stall_s) - began
        grown = resident(peak=True, pid=worker.pid) - before
        stage.hang_up()
        postgres.restart()
        wait_until(stage.is_done, of=worker, patience_s=plan.patience_s)

        state = stage.judge()
        goodput = stage.goodput()
        report(
            f"{plan.streams} streams, {plan.stall_s:g} s: {came:,} tokens came, the process grew by"
            f" {grown / MiB:.1f} MiB (budget {plan.budget_bytes / MiB:g}); {goodput}"
        )
        assert grown < plan.budget_bytes + plan.margin_bytes
        # Nothing was run twice: one request for each, each token once, no claim but the first.
        assert goodput.generated == goodput.needed
        assert goodput.requests == plan.streams
        assert {attempt["outcome"] for attempt in state.attempts} == {"finished"}
        assert {point["epoch"] for point in state.checkpoints.values()} == {1}


def _stand_still(stage: FleetStage, worker: Process, seconds: float) -> int:
    """Wait so long, and until the endpoint is made to wait; give what it has said by then."""
    until = time.monotonic() + seconds
    said = [-1]

    def waits() -> bool:
        said.append(stage.simulator.stats()["generated"])
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(0.5)
        return said[-1] == said[-2] and time.monotonic() > until

    wait_until(waits, of=worker, patience_s=seconds + 60)
    return said[-1]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_stalled_database_stops_the_streams_and_loses_nothing(
    tmp_path: Path, report: Report
) -> None:
    """Three seconds of silence and a restart: the endpoint waits, and each token comes once."""
    _play(tmp_path, SAMPLE, report)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_database_stalled_for_a_minute_fills_no_memory(tmp_path: Path, report: Report) -> None:
    """Longer than a lease, under 500 streams: memory within the budget, nothing lost or twice."""
    _play(tmp_path, SOAK, report)
