"""Workers that share a PostgreSQL and a folder, without a broker; some die, the work is done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from simulator import process as simulators
from simulator.faults import Faults
from simulator.process import Simulator
from simulator.rules import Rule
from simulator.settings import SimSettings
from tests.contract.conftest import _made
from tests.contract.servers import postgresql
from tests.integration.command import COMMAND
from tests.integration.fleet import Fleet, Process, wait_until
from tokenspool import migrate
from tokenspool import tables as t

#: Short, so that nobody waits; a loaded machine may let one run out that lives, which is allowed.
LEASE_S = 3.0


@pytest.fixture(scope="module")
def paced() -> Iterator[Simulator]:
    """Give an endpoint that speaks slowly enough to be disturbed."""
    with simulators.start(SimSettings(rate=60)) as running:
        yield running


@pytest.fixture(scope="module")
def sampler() -> Iterator[Simulator]:
    """Give one that chooses other words each time: doubled writes show only with it."""
    with simulators.start(SimSettings(rate=60, sampling=True)) as running:
        yield running


@pytest.fixture
def url() -> Iterator[str]:
    """Give the URL of an empty PostgreSQL."""
    with postgresql() as server, _made(server) as made:
        yield made


def fleet_on(folder: Path, url: str, sim: Simulator) -> Iterator[Fleet]:
    """Make a fleet without workers."""
    sim.reset()
    fleet = Fleet(folder, url, sim)
    migrate.upgrade(fleet.database)
    yield fleet
    fleet.database.close()
    said = fleet.said if (folder / "said").exists() else ""
    assert "Traceback" not in said, said


@pytest.fixture
def fleet(tmp_path: Path, url: str, paced: Simulator) -> Iterator[Fleet]:
    """Give a fleet without workers."""
    yield from fleet_on(tmp_path, url, paced)


@pytest.fixture
def sampling(tmp_path: Path, url: str, sampler: Simulator) -> Iterator[Fleet]:
    """Give a fleet whose endpoint samples."""
    yield from fleet_on(tmp_path, url, sampler)


def owned_by(fleet: Fleet, process: Process) -> int:
    """Give how many running jobs a process owns."""
    ids = {row["id"] for row in fleet.rows(t.worker) if row["pid"] == process.pid}
    running = [row for row in fleet.rows(t.job) if row["state"] == "running"]
    return sum(row["owner"] in ids for row in running)


def both_work(fleet: Fleet, *processes: Process, jobs: int = 8) -> None:
    """Wait until each has its jobs and some text of them."""
    wait_until(lambda: all(owned_by(fleet, p) == jobs for p in processes), of=processes)
    wait_until(lambda: min(map(len, fleet.texts().values())) > 100, of=processes)


@pytest.mark.slow
def test_two_workers_work_off_one_batch(fleet: Fleet) -> None:
    """Both take part, every text is exact, and nothing is asked for twice."""
    fleet.enqueue(40, tokens=120)

    with fleet.worker() as one, fleet.worker() as other:
        wait_until(lambda: fleet.states() == {"done"}, of=[one, other])

    fleet.check_done()
    assert len({row["worker"] for row in fleet.rows(t.attempt)}) == 2
    assert fleet.sim.stats()["generated"] == 40 * 120


@pytest.mark.slow
def test_jobs_of_a_killed_worker_are_finished_by_the_other(fleet: Fleet) -> None:
    """From what was committed: hardly a token is generated again."""
    fleet.enqueue(16, tokens=300)

    with fleet.worker(lease_s=LEASE_S) as dying, fleet.worker(lease_s=LEASE_S) as other:
        both_work(fleet, dying, other)
        dying.send_signal(signal.SIGKILL)
        wait_until(lambda: fleet.states() == {"done"}, of=[other])

    fleet.check_done()
    assert "crashed" in {row["outcome"] for row in fleet.rows(t.attempt)}
    # A tick, a beat and a held-back word of each of the eight streams.
    assert fleet.sim.stats()["generated"] <= 16 * 300 + 8 * 60


@pytest.mark.slow
def test_a_suspended_worker_writes_nothing_into_what_others_took(sampling: Fleet) -> None:
    """Woken after its lease it finds its jobs taken, writes nothing, and works on as another."""
    fleet = sampling
    fleet.enqueue(16, tokens=500)

    with contextlib.ExitStack() as stack:
        # The sleeper first: the other has room for all jobs, and would leave it none.
        sleeper = stack.enter_context(fleet.worker(lease_s=LEASE_S))
        wait_until(lambda: owned_by(fleet, sleeper) == 8, of=[sleeper])
        other = stack.enter_context(fleet.worker(lease_s=LEASE_S, streams=16))
        wait_until(lambda: min(map(len, fleet.texts().values())) > 100, of=[sleeper, other])
        before = {row["id"] for row in fleet.rows(t.worker) if row["pid"] == sleeper.pid}
        sleeper.send_signal(signal.SIGSTOP)
        wait_until(lambda: not owned_by(fleet, sleeper), of=[other])
        wait_until(lambda: "pending" not in fleet.states(), of=[other])
        sleeper.send_signal(signal.SIGCONT)
        wait_until(lambda: sleeper.pid in fleet.living().values(), of=[sleeper, other])
        wait_until(lambda: fleet.states() == {"done"}, of=[sleeper, other])
        assert before.isdisjoint(fleet.living())

    fleet.check_done(exact=False)


@pytest.mark.slow
def test_a_suspended_worker_alone_goes_on_with_its_open_streams(fleet: Fleet) -> None:
    """Nobody took its jobs: no request is made anew, no attempt is spent, under a new id."""
    fleet.enqueue(8, tokens=600)

    with fleet.worker(lease_s=LEASE_S) as sleeper:
        both_work(fleet, sleeper)
        (before,) = fleet.living()
        sleeper.send_signal(signal.SIGSTOP)
        wait_until(lambda: lease_left(fleet, before) < 0)
        sleeper.send_signal(signal.SIGCONT)
        wait_until(lambda: fleet.states() == {"done"}, of=[sleeper])
        assert before not in fleet.living()

    fleet.check_done()
    assert fleet.sim.stats()["generated"] == 8 * 600
    assert {row["epoch"] for row in fleet.rows(t.checkpoint)} == {1}


def lease_left(fleet: Fleet, worker: str) -> float:
    """Give the seconds that a worker's lease still lasts, by the database's clock."""
    asked = sa.text("SELECT lease_until - extract(epoch from now()) FROM worker WHERE id = :id")
    with fleet.database.read() as connection:
        return float(connection.execute(asked, {"id": worker}).scalar_one())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_gives_everything_back(fleet: Fleet, number: signal.Signals) -> None:
    """Within five seconds, without an attempt spent; the next worker goes on."""
    fleet.enqueue(32, tokens=300)

    with fleet.command_worker("--streams", "32") as worker:
        both_work(fleet, worker, jobs=32)
        asked = time.monotonic()
        worker.send_signal(number)
        assert worker.wait(30) == 0
        assert time.monotonic() - asked < 5

    jobs = fleet.rows(t.job)
    assert {(j["state"], j["owner"], j["attempts"], j["crashes"]) for j in jobs} == {
        ("pending", None, 0, 0)
    }
    assert {row["outcome"] for row in fleet.rows(t.attempt)} == {"given_back"}
    assert fleet.living() == {}
    with fleet.worker(streams=32) as other:
        wait_until(lambda: fleet.states() == {"done"}, of=[other])
    fleet.check_done()


@pytest.mark.slow
def test_connections_that_are_cut_stop_nobody(fleet: Fleet) -> None:
    """The database forgets all its clients again and again; leases and texts go on."""
    fleet.enqueue(16, tokens=200)
    cut = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    with fleet.worker(lease_s=LEASE_S) as one, fleet.worker(lease_s=LEASE_S) as other:
        both_work(fleet, one, other)
        for _ in range(4):
            before = sum(map(len, fleet.texts().values()))
            with fleet.database.write() as connection:
                connection.execute(cut)
            wait_until(lambda: sum(map(len, fleet.texts().values())) > before, of=[one, other])  # noqa: B023
        wait_until(lambda: fleet.states() == {"done"}, of=[one, other])

    fleet.check_done()


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(fleet: Fleet) -> None:
    """As safe as a kill; the exit code says that it was no drain."""
    fleet.enqueue(8, tokens=300)

    with fleet.command_worker() as worker:
        both_work(fleet, worker)
        # A drain cannot end while its rows are locked.
        with fleet.database.write() as connection:
            connection.execute(sa.select(t.job.c.id).with_for_update()).all()
            worker.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(0.5)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 3

    assert fleet.states() == {"running"}


@pytest.mark.slow
def test_a_cancelled_job_stops_wherever_it_runs(fleet: Fleet) -> None:
    """Within two seconds, on whichever of two workers, though it is silent and has no beat."""
    rules = (Rule(fault=Faults(stall_after_tokens=40)),)
    with simulators.start(SimSettings(rate=60, rules=rules)) as stalling:
        fleet.sim = stalling
        fleet.enqueue(16, tokens=400)

        with fleet.worker() as one, fleet.worker() as other:
            both_work(fleet, one, other)
            wait_until(lambda: stalling.stats()["generated"] == 16 * 40, of=[one, other])
            fleet.command("cancel", "--batch", "in")
            asked = time.monotonic()
            wait_until(lambda: not stalling.stats()["live"], of=[one, other])
            # Two seconds and what a machine under load adds.
            assert time.monotonic() - asked < 5

    assert fleet.states() == {"cancelled"}


@pytest.mark.slow
def test_processes_are_kept_alive_and_drain_together(fleet: Fleet) -> None:
    """`--processes 2`: one that dies is replaced; a signal to the parent ends all in peace."""
    fleet.enqueue(16, tokens=2000)

    with fleet.command_worker("--processes", "2", "--streams", "8") as parent:
        wait_until(lambda: len(fleet.living()) == 2 and len(fleet.owners()) == 2, of=[parent])
        first = dict(fleet.living())
        victim = min(first.values())
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(fleet.living()) == 3, of=[parent])
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 0

    # The killed one's lease still lasts; the others have signed off.
    assert set(fleet.living().values()) == {victim}
    assert {row["attempts"] for row in fleet.rows(t.job)} == {0}
    assert not fleet.sim.stats()["live"]


@pytest.mark.slow
def test_processes_drain_when_their_parent_is_killed(fleet: Fleet) -> None:
    """Nobody is left to stop them."""
    fleet.enqueue(4, tokens=2000)

    with fleet.command_worker("--processes", "2", "--streams", "2") as parent:
        wait_until(lambda: len(fleet.living()) == 2 and len(fleet.owners()) == 2, of=[parent])
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until(lambda: fleet.living() == {})

    assert {(row["state"], row["attempts"]) for row in fleet.rows(t.job)} == {("pending", 0)}


def test_a_sqlite_file_is_refused(fleet: Fleet) -> None:
    """Two workers on one file would be two too many; the sentence names `run`."""
    done = subprocess.run(
        (*COMMAND, "worker", "--db", "sqlite:///x.db"),
        cwd=fleet.folder,
        env=fleet.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "tokenspool run" in done.stderr
    assert not (fleet.folder / "x.db").exists()


def test_a_database_that_is_away_is_said(fleet: Fleet) -> None:
    """One sentence without the password, exit 4."""
    away = "postgresql://me:secret@127.0.0.1:1/none"
    done = subprocess.run(
        (*COMMAND, "worker", "--db", away),
        cwd=fleet.folder,
        env=fleet.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr
