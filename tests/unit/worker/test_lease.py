"""The lease of a worker: renewed while it moves, given up for lost when it did not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database, now, sqlite_url
from tokenspool.store import workers
from worker.fleet import POLL_CAP_S
from worker.lease import RENEW, Lease, Terms

TERMS = Terms(slots=4, max_crashes=2, lease_s=45.0)


@dataclass
class Site:
    """A lease on a database, with clocks that stand still."""

    database: Database
    seeds: Seeds
    at: float = 1000.0
    still: float = 0.0
    taken: int = 0
    lease: Lease = field(init=False)

    def __post_init__(self) -> None:
        self.lease = Lease(
            self.database,
            TERMS,
            still_for=lambda: self.still,
            on_taken=self.hear,
            clock=lambda: self.at,
        )
        with self.database.write() as connection:
            self.lease.take(connection)

    def hear(self) -> None:
        """Count how often jobs were taken."""
        self.taken += 1

    def states(self) -> dict[str, str]:
        """Give the workers' states."""
        return {row["id"]: row["state"] for row in self.seeds.rows(t.worker)}

    def end_leases(self, *, but: str = "") -> None:
        """Let leases run out in the database."""
        with self.database.write() as connection:
            connection.execute(
                sa.update(t.worker).where(t.worker.c.id != but).values(lease_until=now() - 1.0)
            )

    def dead_worker_with_a_job(self) -> None:
        """Make somebody whose job is to be had."""
        self.seeds.live_worker("dead")
        self.seeds.enqueue("a")
        self.seeds.claim(worker="dead")
        self.end_leases(but=self.lease.worker)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give a worker that has just begun."""
    database = Database(sqlite_url(tmp_path / "spool.db"))
    with database.write() as connection:
        t.metadata.create_all(connection)
    yield Site(database, Seeds(database=database, root=tmp_path))
    database.close()


def test_who_moves_keeps_its_lease(site: Site) -> None:
    """For as long as it is renewed in time."""
    first = site.lease.worker
    for _ in range(5):
        site.at += 10
        assert site.lease.look()
        assert not site.lease.has_run_out

    assert site.lease.worker == first
    assert site.states() == {first: "running"}


def test_registering_again_changes_nothing(site: Site) -> None:
    """The answer to its commit may get lost, and it is tried again."""
    with site.database.write() as connection:
        site.lease.take(connection)

    assert site.states() == {site.lease.worker: "running"}


def test_who_stands_still_is_not_renewed(site: Site) -> None:
    """A process whose loop hangs holds its jobs no longer than a lease."""
    site.still, site.at = 15.1, site.at + 46
    before = site.seeds.rows(t.worker)

    assert not site.lease.look()

    assert site.seeds.rows(t.worker) == before
    assert site.lease.has_run_out


def test_a_lease_runs_out_by_the_local_clock_too(site: Site) -> None:
    """Cut off from the database nobody can be asked; the streams are held all the same."""
    site.at += 45.0
    assert not site.lease.has_run_out
    site.at += 0.1
    assert site.lease.has_run_out


def test_who_was_declared_dead_goes_on_as_somebody_else(site: Site) -> None:
    """With the jobs that nobody took, whose claims still stand."""
    first = site.lease.worker
    site.seeds.enqueue("a")
    site.seeds.claim(worker=first)
    site.end_leases()
    site.at += 50

    assert site.lease.look()

    assert site.lease.worker != first
    assert site.states() == {first: "gone", site.lease.worker: "running"}
    assert (site.seeds.row("a")["owner"], site.seeds.row("a")["epoch"]) == (site.lease.worker, 1)
    assert not site.lease.has_run_out


def test_the_dead_are_found_with_a_renewal(site: Site) -> None:
    """Every worker looks; there is no leader."""
    site.dead_worker_with_a_job()
    site.at += 10

    site.lease.look()

    assert site.seeds.row("a")["state"] == "pending"


def test_whoever_takes_jobs_from_the_dead_is_told_so_at_once(site: Site) -> None:
    """They are claimed without waiting for the next poll; where nobody died nothing is said."""
    site.lease.look()
    assert site.taken == 0

    site.dead_worker_with_a_job()
    site.lease.look()
    site.lease.look()

    assert site.taken == 1


def test_the_jobs_of_a_killed_worker_go_on_within_a_minute() -> None:
    """A lease, a look for the dead that comes just too early, and a poll of an idle worker."""
    look_s = RENEW * workers.LEASE_S

    assert look_s <= 5
    assert workers.LEASE_S + look_s + POLL_CAP_S < 55


@pytest.mark.parametrize("away_s", [23.0, 300.0])
def test_who_was_away_itself_waits_a_lease_before_it_looks_for_the_dead(
    site: Site, away_s: float
) -> None:
    """The others may have been cut off just as long, and get the time to say that they live."""
    site.dead_worker_with_a_job()
    site.at += away_s

    for _ in range(5):
        site.lease.look()
        assert site.seeds.row("a")["state"] == "running"
        site.at += 9
    site.lease.look()

    assert site.seeds.row("a")["state"] == "pending"


def test_who_was_declared_dead_waits_a_lease_too(site: Site) -> None:
    """Even if its own clock saw nothing of it."""
    site.dead_worker_with_a_job()
    site.end_leases()

    site.lease.look()

    assert site.seeds.row("a")["state"] == "running"


def test_a_lease_that_was_stopped_never_comes_back(site: Site) -> None:
    """A renewal that is under way at the end must not register a worker that is gone."""
    first = site.lease.worker
    site.end_leases()
    site.lease.stop(0)

    site.lease.look()

    assert list(site.states()) == [first]


def test_the_thread_renews_by_itself(site: Site) -> None:
    """And tells what ended it, if that was nothing of the database's."""

    def broken() -> float:
        raise ZeroDivisionError

    terms = Terms(slots=4, lease_s=0.1)
    lease = Lease(site.database, terms, still_for=broken)
    lease.start()
    lease._thread.join(50)

    assert isinstance(lease.failure, ZeroDivisionError)


def test_who_is_new_soon_looks_for_the_dead(site: Site) -> None:
    """It often takes the place of one that died: after a second, not after the usual five."""
    site.dead_worker_with_a_job()
    looked = threading.Event()
    quick = Lease(
        site.database,
        TERMS,
        still_for=lambda: site.still,
        clock=lambda: site.at,
    )
    with site.database.write() as connection:
        quick.take(connection)
    renewed = quick.look

    def look() -> bool:
        moved = renewed()
        looked.set()
        return moved

    quick.look = look  # type: ignore[method-assign]
    began = time.monotonic()
    quick.start()

    assert looked.wait(10)
    quick.stop(10)
    assert time.monotonic() - began < 8
    assert {row["state"] for row in site.seeds.rows(t.job)} == {"pending"}
