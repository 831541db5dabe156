"""Crashes of a job that began a new edition: progress is not held against it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.model import Entry, Kind, Segment
from tokenspool.store import claims
from tokenspool.store.beat import commit_beat


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def begin_again(seeds: Seeds, name: str, text: bytes) -> None:
    """Commit the beginning of a new edition of a claimed job."""
    job = seeds.jobs[name]
    before = job.checkpoint
    seq, edition = before.seq + 1, before.edition + 1
    after = replace(before, seq=seq, edition=edition, offsets={Kind.TEXT: len(text)})
    segment = Segment(kind=Kind.TEXT, edition=edition, seq=seq, start=0, data=text)
    segments = (segment,) if text else ()
    entry = Entry(job=job, worker="w", before=before, after=after, segments=segments)
    assert commit_beat(seeds.database, [entry]) == frozenset()


def crash(seeds: Seeds) -> None:
    """Let the worker die."""
    with seeds.database.write() as connection:
        claims.reclaim(connection, dead=["w"], max_crashes=0)


def test_text_of_a_new_edition_is_progress(seeds: Seeds) -> None:
    """Shorter than the old edition, and yet the worker's death was not the job's doing."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "a long text")
    crash(seeds)
    seeds.claim()
    begin_again(seeds, "a", b"short")

    crash(seeds)

    assert (seeds.row("a")["state"], seeds.row("a")["crashes"]) == ("pending", 0)
    attempt = seeds.rows(t.attempt)[-1]
    assert (attempt["edition"], attempt["from_offset"], attempt["to_offset"]) == (2, 0, 5)


def test_a_new_edition_without_text_is_not(seeds: Seeds) -> None:
    """Or a job that kills its worker at each beginning would do so for ever."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "a long text")
    crash(seeds)
    seeds.claim()
    begin_again(seeds, "a", b"")

    crash(seeds)

    assert seeds.row("a")["state"] == "failed"
