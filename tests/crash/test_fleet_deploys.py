"""SIGTERM to workers of a fleet: out in time, nothing lost, and others go on at once."""

from __future__ import annotations

import signal
import time

import pytest

from simulator.settings import SimSettings
from tests.crash.fleet_places import MakeStage, make_stage
from tests.crash.fleet_stage import FleetStage, Process
from tests.crash.reporting import Report
from tests.crash.stage import PATIENCE_S, wait_until
from tests.crash.verifier import changed, snapshot

__all__ = ["make_stage"]

#: A drained stream is asked again for the word that was held back, and for what was under way.
LOST_PER_DRAIN = 12
#: The idle worker looks for work every two seconds; a machine under other load gets the rest.
AT_ONCE_S = 10.0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_worker_with_a_hundred_streams_leaves_in_time(
    make_stage: MakeStage, report: Report
) -> None:
    """Within five seconds, every attempt given back; a worker that was idle goes on at once."""
    _check_drain(make_stage(SimSettings(rate=50)), report, streams=100)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_worker_with_five_hundred_streams_leaves_in_time(
    make_stage: MakeStage, report: Report
) -> None:
    """So it is with as many as one process is meant to carry."""
    _check_drain(make_stage(SimSettings(rate=50)), report, streams=500)


def _check_drain(stage: FleetStage, report: Report, *, streams: int) -> None:
    stage.fill([500] * streams)
    leaving = stage.command_worker("--streams", str(streams))
    wait_until(lambda: len(stage.orphans(leaving).jobs) == streams, of=leaving)
    idle = stage.command_worker("--streams", str(streams))
    wait_until(lambda: len(_living(stage)) == 2, of=idle)

    asked = time.monotonic()
    leaving.send_signal(signal.SIGTERM)
    assert leaving.wait(PATIENCE_S) == 0
    left = time.monotonic() - asked

    wait_until(lambda: not {"pending", "dispatched"} & stage.states().keys(), of=idle)
    taken = time.monotonic() - asked - left
    midway = stage.judge(drained=False)
    wait_until(stage.is_done, of=idle)
    state = stage.judge()
    goodput = stage.goodput()
    report(f"{streams} streams: out in {left:.1f} s, taken up {taken:.1f} s later; {goodput}")
    assert left < 5
    assert taken < AT_ONCE_S
    assert {attempt["outcome"] for attempt in midway.attempts} == {"given_back"}
    assert {(job["attempts"], job["crashes"]) for job in midway.jobs} == {(0, 0)}
    assert changed(snapshot(midway), state) == []
    assert goodput.generated - goodput.needed <= LOST_PER_DRAIN * streams


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_rolling_deploys_cost_nothing(make_stage: MakeStage, report: Report) -> None:
    """Three workers are replaced one after the other, twice: hardly a token is asked for twice."""
    stage = make_stage(SimSettings(rate=100))
    _check_deploys(stage, report, jobs=60, tokens=400, streams=8, most=1.02)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_rolling_deploys_under_load_cost_nothing(make_stage: MakeStage, report: Report) -> None:
    """So it is with 300 streams."""
    stage = make_stage(SimSettings(rate=50))
    _check_deploys(stage, report, jobs=1000, tokens=800, streams=100, most=1.01)


def _check_deploys(
    stage: FleetStage, report: Report, *, jobs: int, tokens: int, streams: int, most: float
) -> None:
    stage.fill([tokens] * jobs)
    workers = [stage.command_worker("--streams", str(streams)) for _ in range(3)]
    drained = 0
    for _ in range(2):
        for old in list(workers):
            wait_until(lambda: stage.orphans(old).jobs or stage.is_done(), of=old)  # noqa: B023
            workers.append(_replacement(stage, streams))
            drained += len(stage.orphans(old).jobs)
            old.send_signal(signal.SIGTERM)
            assert old.wait(PATIENCE_S) == 0
            workers.remove(old)
    wait_until(stage.is_done)

    state = stage.judge()
    goodput = stage.goodput()
    report(f"two deploys of three workers, {drained} streams drained; {goodput}")
    assert {attempt["outcome"] for attempt in state.attempts} == {"finished", "given_back"}
    assert drained > 6
    assert goodput.ratio <= most, goodput


def _replacement(stage: FleetStage, streams: int) -> Process:
    """Start a worker, and wait until it is there: so a deploy goes on."""
    before = _living(stage)
    process = stage.command_worker("--streams", str(streams))
    wait_until(lambda: _living(stage) - before, of=process)
    return process


def _living(stage: FleetStage) -> set[str]:
    return {row["id"] for row in stage.rows("SELECT id FROM worker WHERE state <> 'gone'")}
