"""Ownership over SQLite and PostgreSQL: leases, who takes over from the dead, and who does not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database, now
from tokenspool.model import Completed, Job
from tokenspool.store import claims, ownership, workers

LEASE_S = 45.0


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def reap(seeds: Seeds, *, max_crashes: int = 2) -> int:
    """Look for the dead."""
    with seeds.database.write() as connection:
        return ownership.reap(connection, max_crashes=max_crashes)


def renew(seeds: Seeds, worker: str) -> bool:
    """Renew a lease."""
    with seeds.database.write() as connection:
        return ownership.renew(connection, worker, lease_s=LEASE_S)


def succeed(seeds: Seeds, before: str, worker: str) -> int:
    """Go on under a new id."""
    with seeds.database.write() as connection:
        return ownership.succeed(
            connection, before, worker=worker, version="1", slots=8, lease_s=LEASE_S
        )


def leased_claim(seeds: Seeds, worker: str) -> list[Job]:
    """Claim what is pending, as a worker of a fleet does."""
    with seeds.database.write() as connection:
        return claims.claim_ready(connection, worker=worker, endpoint_id=1, limit=10, leased=True)


def run_out(seeds: Seeds, worker: str) -> None:
    """Let a lease run out."""
    with seeds.database.write() as connection:
        connection.execute(
            sa.update(t.worker).where(t.worker.c.id == worker).values(lease_until=now() - 0.001)
        )


def state(seeds: Seeds, worker: str) -> str:
    """Give a worker's state."""
    return next(row["state"] for row in seeds.rows(t.worker) if row["id"] == worker)


# --- leases ---------------------------------------------------------------------------------------
def test_a_lease_that_has_run_out_is_never_renewed(seeds: Seeds) -> None:
    """Nor one that was ended: others may have acted on it."""
    for worker in ("good", "late", "dead"):
        seeds.live_worker(worker)
    run_out(seeds, "late")
    with seeds.database.write() as connection:
        workers.retire(connection, workers=["dead"])

    assert renew(seeds, "good")
    assert not renew(seeds, "late")
    assert not renew(seeds, "dead")
    assert not renew(seeds, "unheard of")


def test_a_renewal_lasts_a_lease_from_now(seeds: Seeds) -> None:
    """By the database's clock, whatever the machine's says."""
    seeds.live_worker("w")
    seeds.change(t.worker, lease_until=now() + 1.0)

    assert renew(seeds, "w")

    with seeds.database.read() as connection:
        left = connection.execute(sa.select(t.worker.c.lease_until - now())).scalar_one()
    assert LEASE_S - 5 < left <= LEASE_S


def test_only_the_living_claim(seeds: Seeds) -> None:
    """Without a lease a worker gets neither pending nor complete jobs."""
    seeds.enqueue("complete")
    seeds.claim(worker="w")
    seeds.spool("complete", "x", ending=Completed(finish="stop"))
    seeds.change(t.job, owner=None)
    seeds.enqueue("a", "b")
    for worker in ("good", "late"):
        seeds.live_worker(worker)
    run_out(seeds, "late")

    for worker in ("late", "unheard of"):
        assert leased_claim(seeds, worker) == []
        with seeds.database.write() as connection:
            assert not claims.claim_complete(connection, worker=worker, limit=9, leased=True)
    assert [job.custom_id for job in leased_claim(seeds, "good")] == ["a", "b"]
    with seeds.database.write() as connection:
        assert claims.claim_complete(connection, worker="good", limit=9, leased=True)


# --- the dead -------------------------------------------------------------------------------------
def test_the_dead_lose_their_jobs_and_the_living_keep_theirs(seeds: Seeds) -> None:
    """A new epoch, so that the dead's late words find no row."""
    for worker, job in (("alive", "kept"), ("dead", "taken")):
        seeds.live_worker(worker)
        seeds.enqueue(job)
        seeds.claim(worker=worker)
        seeds.spool(job, "text")
    run_out(seeds, "dead")

    assert reap(seeds) == 1

    assert state(seeds, "dead") == "gone"
    assert state(seeds, "alive") == "running"
    taken, kept = seeds.row("taken"), seeds.row("kept")
    assert (taken["state"], taken["owner"], taken["epoch"]) == ("pending", None, 2)
    assert (kept["state"], kept["owner"], kept["epoch"]) == ("running", "alive", 1)
    assert not seeds.spool("taken", " of the dead")
    assert seeds.spool("kept", " of the living")
    assert reap(seeds) == 0


def test_what_a_worker_left_behind_when_it_went_is_found(seeds: Seeds) -> None:
    """Also jobs of an owner that has no row at all."""
    seeds.live_worker("went")
    seeds.enqueue("a")
    seeds.claim(worker="went")
    seeds.enqueue("b")
    seeds.claim(worker="unheard of")
    with seeds.database.write() as connection:
        workers.retire(connection, workers=["went"])

    assert reap(seeds) == 2

    assert {row["state"] for row in seeds.rows(t.job)} == {"pending"}


def test_complete_jobs_of_the_dead_can_be_published_by_others(seeds: Seeds) -> None:
    """Nothing is asked for again."""
    seeds.live_worker("dead")
    seeds.enqueue("a")
    seeds.claim(worker="dead")
    seeds.spool("a", "whole", ending=Completed(finish="stop"))
    run_out(seeds, "dead")

    reap(seeds)

    assert (seeds.row("a")["state"], seeds.row("a")["owner"]) == ("complete", None)
    with seeds.database.write() as connection:
        (job,) = claims.claim_complete(connection, worker="w", limit=9)
    assert (job.complete, job.epoch) == (True, 2)


def test_a_job_that_kills_its_workers_ends_in_failed(seeds: Seeds) -> None:
    """Deaths without a new byte between them are counted, as in `run`."""
    seeds.enqueue("poison")
    for number in range(3):
        seeds.live_worker(f"w{number}")
        seeds.claim(worker=f"w{number}")
        run_out(seeds, f"w{number}")
        reap(seeds, max_crashes=2)

    row = seeds.row("poison")
    assert (row["state"], row["crashes"], row["attempts"]) == ("failed", 3, 0)


def test_many_reapers_take_each_job_once(seeds: Seeds) -> None:
    """There is no leader."""
    for number in range(8):
        seeds.live_worker(f"w{number}")
        seeds.enqueue(*(f"job{number}-{n}" for n in range(5)))
        seeds.claim(worker=f"w{number}")
    seeds.change(t.worker, lease_until=now() - 1.0)
    taken: list[int] = []
    begin = threading.Barrier(4)

    def work() -> None:
        begin.wait()
        taken.append(reap(seeds))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.append(reap(seeds))  # what one skipped because another held it

    assert sum(taken) == 40
    assert {(row["state"], row["epoch"]) for row in seeds.rows(t.job)} == {("pending", 2)}


def test_rows_of_the_long_gone_are_forgotten(seeds: Seeds) -> None:
    """A fleet that is deployed every hour does not grow the table for ever."""
    for worker in ("living", "yesterday's", "today's"):
        seeds.live_worker(worker)
    with seeds.database.write() as connection:
        workers.retire(connection, workers=["yesterday's", "today's"])
        connection.execute(
            sa.update(t.worker)
            .where(t.worker.c.id == "yesterday's")
            .values(lease_until=now() - ownership.FORGET_S - 1)
        )

    reap(seeds)

    assert sorted(row["id"] for row in seeds.rows(t.worker)) == ["living", "today's"]


# --- going on -------------------------------------------------------------------------------------
def test_a_successor_goes_on_with_what_nobody_took(seeds: Seeds) -> None:
    """Under the same epochs, so that the open streams may write on."""
    seeds.live_worker("before")
    seeds.enqueue("kept", "taken")
    seeds.claim(worker="before")
    seeds.spool("kept", "some")
    seeds.spool("taken", "some")
    run_out(seeds, "before")
    taken = seeds.row("taken")["id"]
    with seeds.database.write() as connection:
        connection.execute(
            sa.update(t.job).where(t.job.c.id == taken).values(owner="other", epoch=2)
        )
        connection.execute(
            sa.update(t.checkpoint).where(t.checkpoint.c.job_id == taken).values(epoch=2)
        )

    assert succeed(seeds, "before", "after") == 1

    assert (state(seeds, "before"), state(seeds, "after")) == ("gone", "running")
    assert (seeds.row("kept")["owner"], seeds.row("kept")["epoch"]) == ("after", 1)
    assert seeds.row("taken")["owner"] == "other"
    assert seeds.spool("kept", " more")
    assert not seeds.spool("taken", " more")
    seeds.live_worker("other")
    assert reap(seeds) == 0


def test_after_a_reaper_nothing_is_left_to_succeed_to(seeds: Seeds) -> None:
    """Whoever comes too late begins with nothing."""
    seeds.live_worker("before")
    seeds.enqueue("a")
    seeds.claim(worker="before")
    run_out(seeds, "before")
    reap(seeds)

    assert succeed(seeds, "before", "after") == 0

    assert seeds.row("a")["owner"] is None
    assert leased_claim(seeds, "before") == []
    assert len(leased_claim(seeds, "after")) == 1
