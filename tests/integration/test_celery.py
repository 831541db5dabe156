"""Workers that are woken through a broker: what they do, and how they come and go."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from simulator import process as simulators
from simulator.process import Simulator
from simulator.settings import SimSettings
from tests.contract.brokers import Place, broker
from tests.contract.conftest import _made
from tests.contract.servers import postgresql
from tests.integration.celery_fleet import KEY, CeleryFleet
from tests.integration.fleet import LIMIT_S, wait_until
from tokenspool import migrate
from tokenspool import tables as t
from worker.broker import Broker, sender
from worker.dispatcher import Dispatcher, filling
from worker.hints import GENERATE, Publisher

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def paced() -> Iterator[Simulator]:
    """Give an endpoint that speaks slowly enough to be watched."""
    with simulators.start(SimSettings(rate=60)) as running:
        yield running


@pytest.fixture(params=["redis", "rabbitmq"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Give a queue of the test's own on each broker."""
    with broker(request.param) as found:
        yield found


@pytest.fixture
def fleet(tmp_path: Path, place: Place, paced: Simulator) -> Iterator[CeleryFleet]:
    """Give a fleet without workers."""
    paced.reset()
    with postgresql() as server, _made(server) as url:
        fleet = CeleryFleet(tmp_path, url, paced, place=place)
        migrate.upgrade(fleet.database)
        yield fleet
        fleet.database.close()
    said = fleet.said if (tmp_path / "said").exists() else ""
    assert "Traceback" not in said, said


def test_two_workers_work_off_one_batch(fleet: CeleryFleet) -> None:
    """Both take part, every text is exact, and nothing is asked for twice: nor by ten hints."""
    fleet.enqueue(40, tokens=120)
    ids = [row["id"] for row in fleet.rows(t.job)]
    app = sender(Broker(url=fleet.place.url, queue=fleet.place.queue))
    with app.connection_for_write() as connection:
        for job_id in 10 * ids:
            app.send_task(GENERATE, args=(job_id,), connection=connection)

    with fleet.command_worker("--streams", "8") as one, fleet.command_worker("--streams", "8") as b:
        wait_until(lambda: fleet.states() == {"done"}, of=[one, b])

    fleet.check_done()
    assert len({row["worker"] for row in fleet.rows(t.attempt)}) == 2
    assert fleet.sim.stats()["generated"] == 40 * 120


def test_the_plain_command_works_and_shows_jobs_by_name(fleet: CeleryFleet) -> None:
    """`celery inspect active` names what runs; the kick of `enqueue` started it, not a poll."""
    with fleet.celery_worker("-P", "threads", "-c", "8", "-n", "w@here") as worker:
        wait_until(lambda: active(fleet) == [], of=[worker])
        fleet.enqueue(8, tokens=3000)
        wait_until(lambda: len(running(fleet)) == 8, of=[worker])

        shown = json.loads(fleet.celery("inspect", "active", "--json").stdout)
        names = {task["kwargs"]["name"] for task in shown["w@here"]}
        assert {task["name"] for task in shown["w@here"]} == {"tokenspool.generate"}
        assert names == {f"in/job-{number:03}" for number in range(8)}

        # From afar Celery sends no signal, and waits for its tasks: they must end with the drain.
        sender(Broker(url=fleet.place.url, queue=fleet.place.queue)).control.shutdown()
        worker.wait(30)

    assert fleet.states() <= {"pending", "dispatched"}
    assert {row["attempts"] for row in fleet.rows(t.job)} == {0}


def running(fleet: CeleryFleet) -> set[str]:
    """Give the jobs that run."""
    return {row["custom_id"] for row in fleet.rows(t.job) if row["state"] == "running"}


def active(fleet: CeleryFleet) -> list[object] | None:
    """Give what the one Celery worker says it runs; None while it says nothing."""
    broker = Broker(url=fleet.place.url, queue=fleet.place.queue)
    nodes = sender(broker).control.inspect(timeout=2).active()
    return nodes and next(iter(nodes.values()))


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("redis", signal.SIGINT),
        ("redis", signal.SIGHUP),
        ("redis", signal.SIGQUIT),
        ("rabbitmq", signal.SIGTERM),
    ],
    indirect=["place"],
)
def test_a_stopped_worker_gives_everything_back(fleet: CeleryFleet, number: signal.Signals) -> None:
    """Within five seconds, without an attempt spent, also when its terminal has gone."""
    fleet.enqueue(32, tokens=600)

    with fleet.command_worker("--streams", "32") as worker:
        wait_until(lambda: len(running(fleet)) == 32, of=[worker])
        wait_until(lambda: min(map(len, fleet.texts().values())) > 20, of=[worker])
        asked = time.monotonic()
        worker.send_signal(number)
        assert worker.wait(30) == 0
        assert time.monotonic() - asked < 5

    jobs = fleet.rows(t.job)
    assert {(j["state"], j["owner"], j["attempts"], j["crashes"]) for j in jobs} <= {
        ("pending", None, 0, 0),
        ("dispatched", None, 0, 0),
    }
    assert {row["outcome"] for row in fleet.rows(t.attempt)} == {"given_back"}
    assert fleet.living() == {}


def test_messages_hold_neither_prompts_nor_keys(fleet: CeleryFleet, place: Place) -> None:
    """A job's id and name are all that the broker ever sees of it."""
    fleet.enqueue(3, tokens=60)
    code = (
        "from worker.app import app, settings, _broker_of; from worker.hints import Publisher\n"
        "from worker.dispatcher import Dispatcher, filling\n"
        "from tokenspool.database import Database\n"
        "found = settings.load(); fill = filling(Database(found.database_url), lookahead=3)\n"
        "assert Dispatcher(fill, Publisher(app, _broker_of(found))).look() == 3"
    )
    subprocess.run((sys.executable, "-P", "-c", code), env=fleet.environment, check=True)

    raw = raw_messages(place)
    assert len(raw) == 4
    assert sum("tokenspool.dispatch" in one for one in raw) == 1
    assert sum("in/job-00" in one for one in raw) == 3
    for secret in (KEY, "story", fleet.sim.base_url, "postgresql"):
        assert not [one for one in raw if secret in one]


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_hints_that_nobody_takes_do_not_pile_up(fleet: CeleryFleet) -> None:
    """While all slots are busy jobs are offered again and again, and no message ever expires."""
    fleet.enqueue(30, tokens=60)
    broker = Broker(url=fleet.place.url, queue=fleet.place.queue)
    publisher = Publisher(sender(broker), broker)
    dispatcher = Dispatcher(filling(fleet.database, lookahead=10, hint_s=0), publisher)

    lengths = []
    for _ in range(8):
        assert dispatcher.look() == 10
        lengths.append(len(raw_messages(fleet.place)))

    publisher.close()
    assert max(lengths) <= 20
    assert min(lengths) >= 10


def raw_messages(place: Place) -> list[str]:
    """Give every message that waits, headers and all, as it lies in the broker."""
    if place.url.startswith("redis"):
        with redis.Redis.from_url(place.url) as client:
            keys = list(client.scan_iter(f"{place.queue}:*"))
            lists = [key for key in keys if client.type(key) == b"list"]
            found = [item.decode() for key in lists for item in client.lrange(key, 0, -1)]
        # The body of a message is JSON in base64.
        return [one + decoded(one) for one in found]
    from tests.contract.brokers import _connected  # noqa: PLC0415

    with _connected(place.url) as connection:
        channel = connection.default_channel
        found = []
        while (message := channel.basic_get(place.queue)) is not None:
            body = message.body if isinstance(message.body, str) else message.body.decode()
            found.append(f"{message.headers} {message.properties} {body}")
    return found


def decoded(message: str) -> str:
    """Give what stands in the body of a message of Redis."""
    import base64  # noqa: PLC0415

    return base64.b64decode(json.loads(message)["body"]).decode()


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_processes_drain_together(fleet: CeleryFleet) -> None:
    """`--processes 2` with a broker: a signal to the parent ends all in peace."""
    fleet.enqueue(8, tokens=2000)

    with fleet.command_worker("--processes", "2", "--streams", "4") as parent:
        wait_until(lambda: len(fleet.living()) == 2 and len(running(fleet)) == 8, of=[parent])
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 0

    assert fleet.living() == {}
    assert {row["attempts"] for row in fleet.rows(t.job)} == {0}
    assert not fleet.sim.stats()["live"]


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_work_goes_on_when_celery_has_failed(fleet: CeleryFleet) -> None:
    """What Celery does not try again ends it for good: jobs are polled for, and it drains."""
    fleet.place = Place(f"{fleet.place.url.rpartition('/')[0]}/none", fleet.place.queue)
    fleet.enqueue(4, tokens=60)
    fleet.enqueue(4, tokens=3000, batch="long")

    with fleet.celery_worker("-P", "threads", "-c", "8", "-n", "w@here") as worker:
        wait_until(lambda: "celery_failed" in fleet.said, of=[worker])
        wait_until(lambda: fleet.states() == {"done", "running"}, of=[worker])
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0

    assert "RuntimeError" not in fleet.said
    assert fleet.states() == {"done", "pending"}
    assert {row["attempts"] for row in fleet.rows(t.job) if row["state"] == "pending"} == {0}
    assert fleet.living() == {}
    # Celery says why it has failed with a traceback of its own.
    (fleet.folder / "said").unlink()


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_a_worker_that_cannot_work_says_why(fleet: CeleryFleet) -> None:
    """One sentence and an exit code, in place of a worker that forks the event loop."""
    done = fleet.celery("worker", "-c", "2", "-P", "prefork")

    assert done.returncode == 2
    assert "tokenspool: " in done.stderr
    assert "-P threads" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", ["redis"], indirect=True)
@pytest.mark.parametrize("command", [("worker",), ("enqueue", "in.jsonl", "-o", "out")])
def test_a_wrong_broker_is_said_in_one_sentence(
    fleet: CeleryFleet, command: tuple[str, ...]
) -> None:
    """Before anything is touched, and without its password."""
    environment = fleet.environment | {"TOKENSPOOL_BROKER_URL": "radish://me:secret@here"}
    done = subprocess.run(
        (sys.executable, "-P", "-m", "tokenspool", *command),
        cwd=fleet.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr
    assert list(fleet.folder.iterdir()) == []
