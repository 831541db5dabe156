"""Brokers that forget, die and repeat themselves: no job is lost, and no token is asked for twice.

Short samples of a Redis that does so, and of hints that come ten times, stand in
`tests/integration/test_celery.py` and `test_celery_outages.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from simulator.settings import SimSettings
from tests.contract.brokers import Place, broker
from tests.contract.rabbit_server import RabbitServer, own_rabbitmq
from tests.contract.redis_server import RedisServer, own_redis
from tests.crash.fleet_hints import Hints
from tests.crash.fleet_places import MakeStage, make_stage
from tests.crash.fleet_stage import FleetStage
from tests.crash.reporting import Report
from tests.crash.stage import wait_until

__all__ = ["make_stage"]

WORKERS = 2
QUEUE = "tokenspool-test"


class Server(Protocol):
    """A broker that may be away."""

    def start(self) -> None:
        """Come back."""

    def kill(self) -> None:
        """Die."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done while the broker is away."""

    jobs: int
    tokens: int
    #: Of each worker.
    streams: int
    away_s: float
    patience_s: float = 120.0


SAMPLE = Plan(jobs=320, tokens=200, streams=10, away_s=1)
#: The work lasts longer than a broker takes to come back, and Celery to find it again.
REDIS = Plan(jobs=2000, tokens=200, streams=50, away_s=10, patience_s=1800)
RABBITMQ = Plan(jobs=2000, tokens=200, streams=50, away_s=5, patience_s=1800)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a Redis that may be flushed and killed."""
    with own_redis(tmp_path) as server:
        yield server


@pytest.fixture
def rabbitmq(tmp_path: Path) -> Iterator[RabbitServer]:
    """Give a RabbitMQ that may be killed."""
    with own_rabbitmq(tmp_path / "rabbit") as server:
        yield server


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_flushed_redis_loses_none_of_a_thousand_jobs(
    make_stage: MakeStage, redis: RedisServer, report: Report
) -> None:
    """1,000 queued and 100 running, and again with each quarter done: each token comes once."""
    stage, hints = make_stage(SimSettings(rate=50)), Hints(Place(redis.url, QUEUE))
    jobs, streams = 1500, 50
    _begin(stage, hints, lengths=[200] * jobs, streams=streams)
    queued, forgotten = _count(stage, "pending", "dispatched"), [_flush(hints, redis)]
    assert queued >= 1000
    for share in (0.25, 0.5, 0.75):
        wait_until(lambda: _count(stage, "done") >= share * jobs, patience_s=1800)  # noqa: B023
        forgotten.append(_flush(hints, redis))
    _see_hints_flow(stage, hints)
    wait_until(stage.is_done, patience_s=1800)

    counted = _judge(stage)
    report(
        f"flushed {len(forgotten)} times, first with {queued} queued and {WORKERS * streams}"
        f" running; hints forgotten: {forgotten}; {counted}"
    )


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_redis_that_dies_for_ten_seconds_loses_nothing(
    make_stage: MakeStage, redis: RedisServer, report: Report
) -> None:
    """Empty when it comes back; workers go on meanwhile, and are woken by hints again."""
    hints = Hints(Place(redis.url, QUEUE))
    _outage(make_stage(SimSettings(rate=50)), hints, redis, REDIS, report)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_rabbitmq_that_dies_for_a_moment_loses_nothing(
    make_stage: MakeStage, rabbitmq: RabbitServer, report: Report
) -> None:
    """Killed and started again on what it has kept, with twenty streams."""
    hints = Hints(Place(rabbitmq.url, QUEUE))
    _outage(make_stage(SimSettings(rate=50)), hints, rabbitmq, SAMPLE, report)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_rabbitmq_that_dies_for_five_seconds_loses_nothing(
    make_stage: MakeStage, rabbitmq: RabbitServer, report: Report
) -> None:
    """So it is with a hundred streams."""
    hints = Hints(Place(rabbitmq.url, QUEUE))
    _outage(make_stage(SimSettings(rate=50)), hints, rabbitmq, RABBITMQ, report)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_hints_that_come_ten_times_run_nothing_twice(
    make_stage: MakeStage, kind: str, report: Report
) -> None:
    """Of 500 jobs; those that nobody needs are taken too, and change nothing."""
    jobs = 500
    with broker(kind) as place:
        stage, hints = make_stage(SimSettings(rate=50)), Hints(place)
        hints.wake(stage)
        stage.fill([200] * jobs)
        hints.send(10 * [row["id"] for row in stage.rows("SELECT id FROM job ORDER BY id")])
        for _ in range(WORKERS):
            stage.command_worker("--streams", "50")
        wait_until(stage.is_done, patience_s=1800)
        wait_until(lambda: hints.waiting() == 0)
        wait_until(lambda: sum(hints.taken().values()) >= 10 * jobs)
        taken = sum(hints.taken().values())

        report(f"{taken} hints taken for {jobs} jobs; {_judge(stage)}")


def _begin(stage: FleetStage, hints: Hints, *, lengths: list[int], streams: int) -> None:
    """Enqueue, and start the workers; return when each of their streams speaks."""
    hints.wake(stage)
    stage.fill(lengths)
    workers = [stage.command_worker("--streams", str(streams)) for _ in range(WORKERS)]
    wait_until(lambda: [len(stage.orphans(one).jobs) for one in workers] == WORKERS * [streams])


def _flush(hints: Hints, server: RedisServer) -> int:
    """Let it forget everything, once there is something; give how many hints were lost."""
    wait_until(hints.waiting)
    lost = hints.waiting()
    server.flush()
    return lost


def _outage(stage: FleetStage, hints: Hints, server: Server, plan: Plan, report: Report) -> None:
    _begin(stage, hints, lengths=[plan.tokens] * plan.jobs, streams=plan.streams)
    _see_hints_flow(stage, hints)
    server.kill()
    killed = time.monotonic()
    queued = _count(stage, "pending", "dispatched")
    wait_until(lambda: time.monotonic() - killed >= plan.away_s)
    # Nobody waits for it: more has been begun.
    wait_until(lambda: _count(stage, "pending", "dispatched") < queued)
    slots = WORKERS * plan.streams
    server.start()
    back = time.monotonic()
    _see_hints_flow(stage, hints)
    woken = time.monotonic() - back
    wait_until(stage.is_done, patience_s=plan.patience_s)

    report(
        f"away for {back - killed:.1f} s under {slots} streams, hints taken again {woken:.1f} s"
        f" later; {_judge(stage)}"
    )


def _see_hints_flow(stage: FleetStage, hints: Hints) -> None:
    """Return once every worker has taken a hint more than it had."""
    seen: dict[str, int] = {}

    def flows() -> bool:
        now = hints.taken()
        for name, taken in now.items():
            seen.setdefault(name, taken)
        assert not stage.is_done(), "all was done before a hint was taken"
        return len(now) == WORKERS and all(taken > seen[name] for name, taken in now.items())

    wait_until(flows)


def _count(stage: FleetStage, *states: str) -> int:
    found = stage.states()
    return sum(found.get(state, 0) for state in states)


def _judge(stage: FleetStage) -> str:
    """Check that each text is whole, and that nothing was run twice; give what was counted."""
    state = stage.judge()
    goodput = stage.goodput()
    assert goodput.generated == goodput.needed, goodput
    assert goodput.requests == len(stage.lengths)
    assert {attempt["outcome"] for attempt in state.attempts} == {"finished"}
    assert {point["epoch"] for point in state.checkpoints.values()} == {1}
    return str(goodput)
