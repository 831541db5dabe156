"""Claims over SQLite and PostgreSQL: who may write, from where, and what becomes of the dead's."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database, now
from tokenspool.errors import ErrorKind
from tokenspool.model import Completed, Failure, GivenBack, Job, JobState, Kind, Postponed
from tokenspool.store import claims, reads

LATER = Postponed(failure=Failure(kind=ErrorKind.NETWORK, message="cut"), delay_s=3600.0)


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def names(jobs: list[Job]) -> list[str]:
    """Give what was claimed."""
    return [job.custom_id for job in jobs]


def counts(seeds: Seeds) -> dict[str, int]:
    """Give the counts that are not zero."""
    with seeds.database.read() as connection:
        found = reads.counts(connection)
    return {state.value: jobs for state, jobs in found.jobs.items() if jobs}


def reclaim(
    seeds: Seeds, dead: list[str] | None, *, max_crashes: int = 2, crashed: bool = True
) -> int:
    """Take the jobs of dead workers back."""
    with seeds.database.write() as connection:
        return claims.reclaim(connection, dead=dead, max_crashes=max_crashes, crashed=crashed)


def claim_complete(seeds: Seeds, worker: str = "w") -> list[Job]:
    """Claim what is complete."""
    with seeds.database.write() as connection:
        return claims.claim_complete(connection, worker=worker, limit=10)


# --- claiming -------------------------------------------------------------------------------------
def test_the_best_are_claimed_first_and_no_more_than_asked(seeds: Seeds) -> None:
    """By priority, then in the order in which they came."""
    seeds.enqueue("a", "b")
    seeds.enqueue("urgent", priority=5)
    seeds.enqueue("c")

    assert names(seeds.claim(2)) == ["urgent", "a"]
    assert names(seeds.claim(9)) == ["b", "c"]
    assert seeds.claim(9) == []


def test_a_claim_says_all_that_its_worker_needs(seeds: Seeds) -> None:
    """Request, place, position and the right to write."""
    seeds.enqueue("a", max_output_tokens=7, resume="replay")

    (job,) = seeds.claim()

    assert (job.custom_id, job.name, job.root) == ("a", "a.md", str(seeds.root))
    assert (job.body, job.api, job.resume.value) == (
        {"model": "m", "messages": []},
        "chat",
        "replay",
    )
    assert (job.endpoint.url, job.max_output_tokens, job.complete) == ("http://x/v1", 7, False)
    assert (job.epoch, job.checkpoint.epoch, job.checkpoint.text) == (1, 1, 0)
    row = seeds.row("a")
    assert (row["state"], row["owner"], row["epoch"]) == ("running", "w", 1)


def test_every_claim_raises_the_epoch_in_job_and_checkpoint(seeds: Seeds) -> None:
    """And goes on from what the claims before it committed."""
    seeds.enqueue("a")
    for epoch in range(1, 5):
        (job,) = seeds.claim()
        assert (job.epoch, job.checkpoint.epoch, job.checkpoint.text) == (
            epoch,
            epoch,
            3 * epoch - 3,
        )
        assert (seeds.row("a")["epoch"], seeds.checkpoint("a")["epoch"]) == (epoch, epoch)
        assert seeds.row("a")["claimed_offset"] == 3 * epoch - 3
        seeds.spool("a", "abc", ending=GivenBack(cause="drain"))


def test_what_is_hidden_paused_waiting_or_elsewhere_is_not_claimed(seeds: Seeds) -> None:
    """An unfinished enqueue, a person's pause, a wait, another endpoint's work."""
    seeds.enqueue("waits")
    seeds.claim()
    seeds.spool("waits", "x", ending=LATER)
    seeds.enqueue("hidden", batch="unrevealed", hidden=True)
    seeds.enqueue("paused", batch="paused")
    seeds.enqueue("elsewhere", endpoint_id=99)
    with seeds.database.write() as connection:
        connection.execute(sa.update(t.batch).where(t.batch.c.name == "paused").values(paused=True))

    assert seeds.claim() == []


def test_claims_of_many_at_once_take_each_job_once(seeds: Seeds) -> None:
    """Two workers never get the same job, and none is left over."""
    seeds.enqueue(*(f"job{n}" for n in range(60)))
    taken: dict[str, list[str]] = {f"w{n}": [] for n in range(4)}
    begin = threading.Barrier(len(taken))

    def work(worker: str) -> None:
        begin.wait()
        while True:
            with seeds.database.write() as connection:
                jobs = claims.claim_ready(connection, worker=worker, endpoint_id=1, limit=7)
            if not jobs:
                return
            assert len(jobs) <= 7
            taken[worker] += names(jobs)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    everything = sorted(name for some in taken.values() for name in some)
    assert everything == sorted(f"job{n}" for n in range(60))
    assert counts(seeds) == {"running": 60}


def test_a_complete_job_is_claimed_for_publishing_once(seeds: Seeds) -> None:
    """Only when nobody owns it; its text and its state stay, its epoch rises."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "text", ending=Completed(finish="stop"))
    assert claim_complete(seeds) == []  # its worker is still at it

    reclaim(seeds, ["w"])
    (job,) = claim_complete(seeds, "other")

    assert (job.complete, job.epoch, job.checkpoint.epoch, job.checkpoint.text) == (True, 2, 2, 4)
    assert (seeds.row("a")["state"], seeds.row("a")["owner"]) == ("complete", "other")
    assert claim_complete(seeds) == []
    assert counts(seeds) == {"complete": 1}


def test_lost_claims_are_those_whose_epoch_has_passed(seeds: Seeds) -> None:
    """The heartbeat tells silent streams by it."""
    seeds.enqueue("a", "b")
    a, b = seeds.claim()
    reclaim(seeds, ["nobody"])
    with seeds.database.read() as connection:
        before = claims.lost(connection, [a.owner_key, b.owner_key])
    seeds.spool("b", "x", ending=GivenBack(cause="drain"))
    seeds.claim()

    with seeds.database.read() as connection:
        assert claims.lost(connection, [a.owner_key, b.owner_key]) == {b.owner_key}
        assert claims.lost(connection, []) == set()
    assert before == set()


# --- waiting --------------------------------------------------------------------------------------
def test_waiting_jobs_come_back_when_their_time_has_come(seeds: Seeds) -> None:
    """And not before."""
    seeds.enqueue("soon", "later")
    seeds.claim()
    seeds.spool("soon", "x", ending=LATER)
    seeds.spool("later", "x", ending=LATER)
    with seeds.database.write() as connection:
        soon = sa.update(t.job).where(t.job.c.custom_id == "soon").values(run_at=now() - 1)
        connection.execute(soon)

    with seeds.database.write() as connection:
        assert claims.wake_due(connection) == 1

    assert (seeds.row("soon")["state"], seeds.row("later")["state"]) == ("pending", "waiting")
    assert seeds.row("soon")["run_at"] is None
    assert counts(seeds) == {"pending": 1, "waiting": 1}


# --- the dead's jobs ------------------------------------------------------------------------------
def test_the_jobs_of_the_dead_go_back_under_a_new_epoch(seeds: Seeds) -> None:
    """Their text stays; whoever still writes under the old epoch has lost them."""
    seeds.enqueue("a", "b")
    seeds.claim(1, worker="dead")
    seeds.claim(1, worker="alive")
    seeds.spool("a", "text")

    assert reclaim(seeds, ["dead"]) == 1

    row = seeds.row("a")
    assert (row["state"], row["owner"], row["epoch"], row["cause"]) == ("pending", None, 2, "crash")
    assert (seeds.checkpoint("a")["epoch"], seeds.checkpoint("a")["text"]) == (2, 4)
    assert seeds.row("b")["state"] == "running"
    assert not seeds.spool("a", "zombie")
    assert counts(seeds) == {"pending": 1, "running": 1}
    (attempt,) = seeds.rows(t.attempt)
    assert (attempt["outcome"], attempt["worker"], attempt["to_offset"]) == ("crashed", "dead", 4)


def test_without_names_everybody_counts_as_dead(seeds: Seeds) -> None:
    """The caller holds the lock that proves it."""
    seeds.enqueue("a", "b")
    seeds.claim(1, worker="one")
    seeds.claim(1, worker="two")

    assert reclaim(seeds, None) == 2
    assert counts(seeds) == {"pending": 2}


def test_a_job_that_kills_its_worker_again_and_again_fails(seeds: Seeds) -> None:
    """It grew by nothing each time: beyond its crashes it is given up."""
    seeds.enqueue("poison")
    for _ in range(2):
        seeds.claim()
        reclaim(seeds, ["w"], max_crashes=2)
        assert seeds.row("poison")["state"] == "pending"

    seeds.claim()
    reclaim(seeds, ["w"], max_crashes=2)

    row = seeds.row("poison")
    assert (row["state"], row["error_kind"], row["crashes"]) == ("failed", "storage", 3)
    assert row["ended_at"] is not None
    assert row["attempts"] == 0
    assert counts(seeds) == {"failed": 1}


def test_a_job_that_grows_is_not_to_blame(seeds: Seeds) -> None:
    """Kill the worker as often as you like: each time there was more text."""
    seeds.enqueue("a")
    for _ in range(6):
        seeds.claim()
        seeds.spool("a", "x")
        reclaim(seeds, ["w"], max_crashes=0)

    assert (seeds.row("a")["state"], seeds.row("a")["crashes"]) == ("pending", 0)


@pytest.mark.parametrize("kind", [Kind.REASONING, Kind.TOOL])
def test_thoughts_are_growth_too(seeds: Seeds, kind: Kind) -> None:
    """A long reasoning phase is not a crash of the job's own making."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "hm", kind=kind)

    reclaim(seeds, ["w"], max_crashes=0)

    assert seeds.row("a")["state"] == "pending"


def test_a_worker_that_leaves_in_peace_costs_nothing(seeds: Seeds) -> None:
    """What it had claimed and not begun goes back as if it had not been."""
    seeds.enqueue("a")
    for _ in range(5):
        seeds.claim()
        reclaim(seeds, ["w"], max_crashes=0, crashed=False)

    row = seeds.row("a")
    assert (row["state"], row["crashes"], row["cause"]) == ("pending", 0, "drain")
    assert {row["outcome"] for row in seeds.rows(t.attempt)} == {"given_back"}


def test_complete_jobs_of_the_dead_wait_for_a_publisher(seeds: Seeds) -> None:
    """Nobody owns them any more, and no epoch is spent on that."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "text", ending=Completed(finish="stop"))

    assert reclaim(seeds, ["w"]) == 0

    row = seeds.row("a")
    assert (row["state"], row["owner"], row["epoch"]) == (JobState.COMPLETE.value, None, 1)
