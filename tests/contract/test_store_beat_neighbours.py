"""Claims, reclaims and publishing of many jobs at once: each row gets its own values."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tests.contract.test_store_beat import agrees
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.model import Completed, GivenBack, Job
from tokenspool.store import actions, claims
from tokenspool.store.actions import Chosen
from tokenspool.store.publishing import Published, mark_done


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def test_each_of_many_claims_begins_at_its_own_position(seeds: Seeds) -> None:
    """New ones at nothing, old ones where their text ends, in job and checkpoint alike."""
    names = [f"job{n:02}" for n in range(20)]
    seeds.enqueue(*names)
    seeds.claim()
    for n, name in enumerate(names[:10]):
        seeds.spool(name, "x" * n, ending=GivenBack(cause="drain"))
    seeds.enqueue("new")

    again = {job.custom_id: job for job in seeds.claim()}

    assert sorted(again) == [*names[:10], "new"]
    for n, name in enumerate(names[:10]):
        row, checkpoint = seeds.row(name), seeds.checkpoint(name)
        assert (row["epoch"], row["claimed_edition"], row["claimed_offset"]) == (2, 1, n)
        assert (checkpoint["epoch"], checkpoint["seq"], checkpoint["text"]) == (2, 1, n)
        assert again[name].checkpoint.text == n
    assert (again["new"].epoch, again["new"].checkpoint.seq, seeds.row("new")["epoch"]) == (1, 0, 1)
    agrees(seeds)


def test_each_of_many_orphans_goes_where_it_belongs(seeds: Seeds) -> None:
    """Those that grew are not to blame; those that did not fail or try again, each by its count."""
    names = [f"job{n:02}" for n in range(20)]
    seeds.enqueue(*names)
    seeds.claim()
    for n, name in enumerate(names):
        crashes = sa.update(t.job).where(t.job.c.custom_id == name).values(crashes=n % 4)
        with seeds.database.write() as connection:
            connection.execute(crashes)
        if n % 2:
            seeds.spool(name, "x" * n)

    with seeds.database.write() as connection:
        assert claims.reclaim(connection, dead=["w"], max_crashes=2) == 20

    attempts = {row["job_id"]: row for row in seeds.rows(t.attempt)}
    for n, name in enumerate(names):
        row, failed = seeds.row(name), n % 4 == 2
        assert (row["state"], row["error_kind"]) == (
            ("failed", "storage") if failed else ("pending", None)
        )
        assert (row["ended_at"] is not None) == failed
        assert row["crashes"] == (0 if n % 2 else n % 4 + 1)
        assert (row["epoch"], row["owner"], seeds.checkpoint(name)["epoch"]) == (2, None, 2)
        attempt = attempts[row["id"]]
        assert (attempt["epoch"], attempt["worker"], attempt["outcome"]) == (1, "w", "crashed")
        assert (attempt["from_offset"], attempt["to_offset"]) == (0, n if n % 2 else 0)
        assert attempt["ended_at"] >= attempt["started_at"] > 0
    agrees(seeds)


def test_of_many_published_those_that_stand_are_done(seeds: Seeds) -> None:
    """Each with its own length and digest; a claim that passed on is counted for nobody."""
    names = [f"job{n:02}" for n in range(12)]
    seeds.enqueue(*names)
    seeds.claim()
    for n, name in enumerate(names):
        seeds.spool(name, "x" * n, ending=Completed(finish="stop"))
    jobs = [seeds.jobs[name] for name in names]
    actions.cancel(seeds.database, Chosen(job_id=jobs[3].id), who="me")
    with seeds.database.write() as connection:
        claims.reclaim(connection, dead=["w"], max_crashes=9)
        newer = claims.claim_complete(connection, worker="other", limit=1)

    # The old claim of the first job beside its new one: one of the two is done.
    with seeds.database.write() as connection:
        mark_done(connection, [_published(job) for job in [*reversed(jobs), *newer]])

    for n, name in enumerate(names):
        row = seeds.row(name)
        assert row["state"] == ("cancelled" if n == 3 else "done")
        if n != 3:
            assert (row["bytes"], row["owner"]) == (n, None)
            assert row["sha256"] == _published(seeds.jobs[name]).sha256
            assert row["ended_at"] > 0
    agrees(seeds)


def _published(job: Job) -> Published:
    size = job.checkpoint.text
    return Published(job=job, size=size, sha256=hashlib.sha256(b"x" * size).digest())
