"""What publishing writes, over SQLite and PostgreSQL: only where the claim still stands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.seeds import Seeds
from tokenspool.database import Database
from tokenspool.errors import ErrorKind, TokenspoolError
from tokenspool.model import Completed, Failure, Job
from tokenspool.store import actions, claims, reads
from tokenspool.store.actions import Chosen
from tokenspool.store.publishing import Published, born, let_go, mark_done, mark_failed
from worker.sqlstore import SqlStore

SHA = hashlib.sha256(b"text").digest()
DAMAGED = Failure(kind=ErrorKind.STORAGE, message="the text segment at byte 0 is damaged")


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def complete(seeds: Seeds, *names: str) -> list[Job]:
    """Make complete jobs."""
    seeds.enqueue(*names)
    seeds.claim()
    for name in names:
        seeds.spool(name, "text", ending=Completed(finish="stop"))
    return [seeds.jobs[name] for name in names]


def done(seeds: Seeds, *jobs: Job) -> None:
    """Mark jobs as published."""
    with seeds.database.write() as connection:
        mark_done(connection, [Published(job=job, size=4, sha256=SHA) for job in jobs])


def fail(seeds: Seeds, job: Job) -> None:
    """Give up publishing."""
    with seeds.database.write() as connection:
        mark_failed(connection, job=job, failure=DAMAGED)


def release(seeds: Seeds, job: Job) -> None:
    """Let another claim publish it."""
    with seeds.database.write() as connection:
        let_go(connection, job=job)


def counts(seeds: Seeds) -> dict[str, int]:
    """Give the counts that are not zero."""
    with seeds.database.read() as connection:
        found = reads.counts(connection)
    return {state.value: jobs for state, jobs in found.jobs.items() if jobs}


def test_published_jobs_are_done_with_their_proof(seeds: Seeds) -> None:
    """Length and digest stay, so that the file can be checked when the text is pruned."""
    jobs = complete(seeds, "a", "b", "c")

    done(seeds, *jobs[:2])

    row = seeds.row("a")
    assert (row["state"], row["owner"], row["finish"]) == ("done", None, "stop")
    assert (row["bytes"], row["sha256"]) == (4, SHA)
    assert row["ended_at"] is not None
    assert counts(seeds) == {"done": 2, "complete": 1}


def test_text_that_cannot_be_published_fails_with_its_reason(seeds: Seeds) -> None:
    """No attempt is spent on it: the answer was whole."""
    (job,) = complete(seeds, "a")

    fail(seeds, job)

    row = seeds.row("a")
    assert (row["state"], row["owner"], row["error_kind"]) == ("failed", None, "storage")
    assert row["ended_at"] is not None
    assert row["attempts"] == 1
    assert counts(seeds) == {"failed": 1}


def test_a_job_that_is_let_go_is_claimed_again(seeds: Seeds) -> None:
    """Under a new epoch, with a part of its own."""
    (job,) = complete(seeds, "a")

    release(seeds, job)
    with seeds.database.write() as connection:
        (again,) = claims.claim_complete(connection, worker="w", limit=9)

    assert (again.epoch, again.checkpoint.text) == (2, 4)
    assert counts(seeds) == {"complete": 1}


@pytest.mark.parametrize("act", [done, fail, release])
@pytest.mark.parametrize("lost_to", ["another claim", "a cancel", "the same again"])
def test_who_lost_the_claim_changes_nothing(
    seeds: Seeds, act: Callable[[Seeds, Job], None], lost_to: str
) -> None:
    """Another publishes the same bytes, or a person took it away: counted is only one of them."""
    (job,) = complete(seeds, "a")
    match lost_to:
        case "another claim":
            release(seeds, job)
            with seeds.database.write() as connection:
                claims.claim_complete(connection, worker="other", limit=9)
        case "a cancel":
            actions.cancel(seeds.database, Chosen(job_id=job.id), who="me")
        case _:
            done(seeds, job)
    before = seeds.row("a"), counts(seeds)

    act(seeds, job)

    assert (seeds.row("a"), counts(seeds)) == before


@pytest.mark.parametrize("restart", [False, True])
def test_a_claim_stands_until_somebody_takes_the_job(seeds: Seeds, *, restart: bool) -> None:
    """A publisher that wakes up late must see that its answer is no longer wanted."""
    (job,) = complete(seeds, "a")
    store = SqlStore(seeds.database)
    assert store.stands(job.id, job.epoch)

    chosen = Chosen(job_id=job.id)
    actions.cancel(seeds.database, chosen, who="me")
    assert not store.stands(job.id, job.epoch)
    actions.resume(seeds.database, chosen, who="me", restart=restart)

    assert not store.stands(job.id, job.epoch)
    assert not store.stands(job.id + 1, job.epoch)


def test_a_job_is_told_from_those_of_other_databases_by_its_birth(seeds: Seeds) -> None:
    """To the microsecond, and the same whoever asks and when."""
    seeds.enqueue("a", created_at=1763747000.25)
    seeds.enqueue("b", created_at=1763747000.250001)
    seeds.claim()
    with seeds.database.read() as connection:
        a, b = (born(connection, seeds.jobs[name].id) for name in "ab")
        with pytest.raises(TokenspoolError, match="there is no job 99"):
            born(connection, 99)

    assert (a, b) == ("1763747000.250000", "1763747000.250001")
    assert SqlStore(seeds.database).born(seeds.jobs["a"].id) == a
