"""A SIGKILL at every named fault point of a fleet's worker: the others go on from whatever it is.

The endpoint samples, so text that two had written, or that was asked for twice, could not look
right.
"""

from __future__ import annotations

import json
import signal

import pytest

from simulator.settings import SimSettings
from tests.crash.fleet_places import MakeStage, make_stage
from tests.crash.fleet_stage import FleetStage
from tests.crash.fleet_worker import Told
from tests.crash.points import fault_points
from tests.crash.stage import wait_until

__all__ = ["make_stage"]

#: Short, so that nobody waits; one that runs out on a loaded machine only adds to the disorder.
LEASE_S = 3.0
#: Of each worker that dies: fewer than there are jobs, so that claims happen again and again.
STREAMS = 2


def _die(stage: FleetStage, *, visit: int) -> None:
    points = tuple(fault_points())
    told = Told(url=stage.url, streams=STREAMS, lease_s=LEASE_S, points=points, visit=visit)

    ended = json.loads(stage.done(stage.told(told)).stdout)

    assert ended == dict.fromkeys(points, -signal.SIGKILL)
    stage.judge(drained=False, sampled=True)


def _finish(stage: FleetStage) -> None:
    worker = stage.worker(streams=32, lease_s=LEASE_S)
    wait_until(stage.is_done, of=worker)
    state = stage.judge(sampled=True)
    assert "crashed" in {attempt["outcome"] for attempt in state.attempts}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_worker_may_die_at_every_point(make_stage: MakeStage) -> None:
    """One death at each; then the fleet finishes every job, and each token stands once."""
    stage = make_stage(SimSettings(rate=400, sampling=True))
    stage.fill([20 + 7 * (number % 20) for number in range(120)])

    _die(stage, visit=1)

    _finish(stage)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_workers_may_die_at_every_point_again_and_again(make_stage: MakeStage) -> None:
    """At the first, second, third and fifth visit, five rounds of each."""
    stage = make_stage(SimSettings(rate=400, sampling=True))
    stage.fill([20 + 13 * (number % 20) for number in range(4000)])

    for _ in range(5):
        for visit in (1, 2, 3, 5):
            _die(stage, visit=visit)

    _finish(stage)
