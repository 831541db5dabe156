"""Claims, reclaims, publishing and folding of many jobs at once: each row gets its own values."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tests.contract.test_store_beat import agrees
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.model import Completed, GivenBack, Job, Kind
from tokenspool.store import actions, claims
from tokenspool.store.actions import Chosen
from tokenspool.store.folding import Folding, fold_some
from tokenspool.store.publishing import Published, mark_done
from tokenspool.store.text import DamagedError, read_text


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


def test_many_jobs_are_folded_together_and_damage_stays(seeds: Seeds) -> None:
    """Each kind of each job by itself; what is torn, single or folded already is not made whole."""
    texts: dict[tuple[int, Kind], bytes] = {}
    with seeds.database.write() as connection:
        for job_id in range(1, 13):
            for kind in (Kind.TEXT, Kind.REASONING):
                pieces = [b"%d %s %03d " % (job_id, kind.encode(), n) for n in range(20)]
                _store(connection, job_id, kind, pieces)
                texts[job_id, kind] = b"".join(pieces)
        _store(connection, 13, Kind.TEXT, [b"single"])
        _store(connection, 14, Kind.TEXT, [b"long" * 10_000] * 80)
        harmed = sa.and_(t.segment.c.seq == 10, t.segment.c.kind == "text")
        connection.execute(t.segment.delete().where(harmed, t.segment.c.job_id == 3))
        bad = sa.update(t.segment).where(harmed, t.segment.c.job_id == 5)
        connection.execute(bad.values(data=b"5 text 0!0 "))

    todo = [Folding(job_id=job_id) for job_id in (*range(14, 0, -1), 99)]
    for _ in range(100):
        with seeds.database.write() as connection:
            todo = fold_some(connection, todo)
        if not todo:
            break

    assert todo == []
    s = t.segment.c
    with seeds.database.read() as connection:
        counts = sa.select(s.job_id, s.kind, sa.func.count()).group_by(s.job_id, s.kind)
        found = {(row[0], row[1]): row[2] for row in connection.execute(counts)}
        for (job_id, kind), whole in texts.items():
            if kind is Kind.TEXT and job_id in {3, 5}:
                assert found.pop((job_id, "text")) == {3: 2, 5: 11}[job_id]
                with pytest.raises(DamagedError):
                    list(read_text(connection, job_id, edition=1, kind=kind))
            else:
                assert found.pop((job_id, kind.value)) == 1
                assert b"".join(read_text(connection, job_id, edition=1, kind=kind)) == whole
        assert b"".join(read_text(connection, 14, edition=1)) == b"long" * 800_000
    assert found.pop((13, "text")) == 1
    assert found.pop((14, "text")) < 20
    assert found == {}


def _store(connection: sa.Connection, job_id: int, kind: Kind, pieces: Sequence[bytes]) -> None:
    start = 0
    for seq, data in enumerate(pieces):
        crc = zlib.crc32(data)
        row = {"job_id": job_id, "edition": 1, "kind": kind.value, "start": start, "seq": seq}
        connection.execute(t.segment.insert().values(**row, crc=crc, data=data))
        start += len(data)
