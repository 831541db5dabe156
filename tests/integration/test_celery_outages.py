"""What becomes of the work when workers die, and when the broker forgets everything or is away."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from simulator import process as simulators
from simulator.process import Simulator
from simulator.settings import SimSettings
from tests.contract.brokers import Place
from tests.contract.conftest import _made
from tests.contract.redis_server import RedisServer, own_redis
from tests.contract.servers import postgresql
from tests.integration.celery_fleet import CeleryFleet
from tests.integration.command import COMMAND
from tests.integration.fleet import LIMIT_S, wait_until
from tokenspool import migrate
from tokenspool import tables as t

pytestmark = pytest.mark.slow
QUEUE = "tokenspool-test"


@pytest.fixture(scope="module")
def paced() -> Iterator[Simulator]:
    """Give an endpoint that speaks slowly enough to be disturbed."""
    with simulators.start(SimSettings(rate=60)) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a Redis that may be flushed and killed."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with own_redis(folder) as running:
        yield running


@pytest.fixture
def fleet(tmp_path: Path, server: RedisServer, paced: Simulator) -> Iterator[CeleryFleet]:
    """Give a fleet without workers."""
    paced.reset()
    with postgresql() as place, _made(place) as url:
        fleet = CeleryFleet(tmp_path, url, paced, place=Place(server.url, QUEUE))
        migrate.upgrade(fleet.database)
        yield fleet
        fleet.database.close()


def count(fleet: CeleryFleet, state: str) -> int:
    """Count the jobs in a state."""
    return sum(row["state"] == state for row in fleet.rows(t.job))


def test_jobs_of_a_killed_worker_are_finished_by_the_other(fleet: CeleryFleet) -> None:
    """From what was committed; no message has to come again for it."""
    fleet.enqueue(16, tokens=300)

    with fleet.leased_worker(lease_s=3) as dying, fleet.leased_worker(lease_s=3) as other:
        wait_until(lambda: count(fleet, "running") == 16, of=[dying, other])
        wait_until(lambda: min(map(len, fleet.texts().values())) > 100, of=[dying, other])
        dying.send_signal(signal.SIGKILL)
        wait_until(lambda: fleet.states() == {"done"}, of=[other])

    fleet.check_done()
    # A tick, a beat and a held-back word of each of the eight streams.
    assert fleet.sim.stats()["generated"] <= 16 * 300 + 8 * 60


def test_a_broker_that_forgets_everything_costs_nothing(
    fleet: CeleryFleet, server: RedisServer
) -> None:
    """With 20 running and 200 queued: none is lost, none is run twice."""
    fleet.enqueue(220, tokens=60)

    with fleet.command_worker("--streams", "20") as worker:
        wait_until(lambda: count(fleet, "running") == 20, of=[worker])
        server.flush()
        wait_until(lambda: count(fleet, "done") > 40, of=[worker])
        server.flush()
        wait_until(lambda: fleet.states() == {"done"}, of=[worker])

    fleet.check_done()
    assert fleet.sim.stats()["generated"] == 220 * 60
    assert {row["epoch"] for row in fleet.rows(t.checkpoint)} == {1}


def test_a_broker_that_is_away_for_a_while_stops_nobody(
    fleet: CeleryFleet, server: RedisServer
) -> None:
    """Jobs are finished while it is away, and hints come again when it is back."""
    fleet.enqueue(60, tokens=120)

    with fleet.command_worker("--streams", "8") as worker:
        wait_until(lambda: count(fleet, "running") == 8, of=[worker])
        server.kill()
        killed = time.monotonic()
        before = count(fleet, "done")
        wait_until(lambda: count(fleet, "done") >= before + 12, of=[worker])
        wait_until(lambda: time.monotonic() - killed > 3, of=[worker])
        server.start()
        wait_until(lambda: "hints_sent_again" in fleet.said, of=[worker])
        wait_until(lambda: fleet.states() == {"done"}, of=[worker])

    fleet.check_done()
    assert fleet.said.count("hints_unsent") == 1
    assert fleet.sim.stats()["generated"] == 60 * 120


def test_five_hundred_streams_drain_in_five_seconds_without_a_broker(
    tmp_path: Path, server: RedisServer
) -> None:
    """It is away from the start: work is found by polling, and a signal still ends it in time."""
    server.kill()
    with (
        simulators.start(SimSettings(rate=5)) as slow,
        postgresql() as place,
        _made(place) as url,
    ):
        fleet = CeleryFleet(tmp_path, url, slow, place=Place(server.url, QUEUE))
        migrate.upgrade(fleet.database)
        asked = time.monotonic()
        fleet.enqueue(500, tokens=2000)
        assert time.monotonic() - asked < 20
        with fleet.command_worker("--streams", "500") as worker:
            wait_until(lambda: count(fleet, "running") == 500, of=[worker])
            wait_until(lambda: slow.stats()["live"] == 500, of=[worker])
            asked = time.monotonic()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
            assert time.monotonic() - asked < 5

        assert {(j["state"], j["owner"], j["attempts"]) for j in fleet.rows(t.job)} == {
            ("pending", None, 0)
        }
        assert fleet.living() == {}
        fleet.database.close()


def test_enqueueing_waits_for_no_broker(fleet: CeleryFleet, server: RedisServer) -> None:
    """The jobs are safe: a note, exit 0."""
    server.kill()
    (fleet.folder / "one.txt").write_text("Tell me a story.\n")
    done = subprocess.run(
        (*COMMAND, "enqueue", "one.txt", "-o", "out", "--model", "m"),
        cwd=fleet.folder,
        env=fleet.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 0
    assert "the broker does not answer" in done.stderr
    assert fleet.states() == {"pending"}


def test_a_second_signal_leaves_at_once(fleet: CeleryFleet) -> None:
    """As safe as a kill; the exit code says that it was no drain."""
    fleet.enqueue(8, tokens=600)

    with fleet.command_worker("--streams", "8") as worker:
        wait_until(lambda: count(fleet, "running") == 8, of=[worker])
        # A drain cannot end while its rows are locked.
        with fleet.database.write() as connection:
            connection.execute(sa.select(t.job.c.id).with_for_update()).all()
            worker.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(0.5)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 3

    assert fleet.states() == {"running"}


def test_a_terminal_that_closes_hangs_up_twice(fleet: CeleryFleet) -> None:
    """Its kernel does and its shell: both mean one wish, and the drain goes on."""
    fleet.enqueue(8, tokens=600)

    with fleet.command_worker("--streams", "8") as worker:
        wait_until(lambda: count(fleet, "running") == 8, of=[worker])
        # A drain cannot end while its rows are locked.
        with fleet.database.write() as connection:
            connection.execute(sa.select(t.job.c.id).with_for_update()).all()
            for _ in range(2):
                worker.send_signal(signal.SIGHUP)
                with pytest.raises(subprocess.TimeoutExpired):
                    worker.wait(0.5)
        assert worker.wait(30) == 0

    assert count(fleet, "running") == 0
    assert fleet.living() == {}


def test_processes_that_are_all_signalled_drain(fleet: CeleryFleet) -> None:
    """As systemd does it: each child by a signal, and then by its parent's pipe."""
    fleet.enqueue(8, tokens=600)

    with fleet.command_worker("--processes", "2", "--streams", "4") as parent:
        wait_until(lambda: count(fleet, "running") == 8, of=[parent])
        with fleet.database.write() as connection:
            connection.execute(sa.select(t.job.c.id).with_for_update()).all()
            for child in fleet.living().values():
                os.kill(child, signal.SIGTERM)
            parent.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                parent.wait(1.0)
        assert parent.wait(30) == 0

    assert count(fleet, "running") == 0
    assert fleet.living() == {}
