"""Many entries in one beat: each job gets its own values, whatever the others hand over."""

from __future__ import annotations

from dataclasses import replace as changed
from pathlib import Path

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from tests.contract.seeds import Seeds
from tests.contract.test_store_beat import ATTEMPT, CUT, SEAM, agrees, claimed, entry, later, text
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.model import (
    Completed,
    Ending,
    GaveUp,
    GivenBack,
    Kind,
    Postponed,
    Segment,
    Spent,
)
from tokenspool.store import actions
from tokenspool.store.actions import Chosen
from tokenspool.store.beat import commit_beat

ENDINGS: list[Ending | None] = [
    None,
    Completed(finish="stop"),
    GivenBack(cause="drain"),
    Postponed(failure=CUT, delay_s=60.0),
    GaveUp(failure=CUT),
]


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def test_each_of_many_gets_its_own_ending_and_records(seeds: Seeds) -> None:
    """Columns travel apart and must meet again in the right rows."""
    jobs = claimed(seeds, *(f"job{n:02}" for n in range(25)))
    beat = [
        entry(
            job,
            b"x" * (n + 1),
            ending=ENDINGS[n % 5],
            seams=(changed(SEAM, offset=n),) * (n % 3),
            attempts=(changed(ATTEMPT, to_offset=n, request_id=f"req-{n}"),) * (n % 2),
        )
        for n, job in enumerate(jobs)
    ]

    assert commit_beat(seeds.database, [*reversed(beat)]) == frozenset()

    states = ["running", "complete", "pending", "waiting", "failed"]
    rows = {row["custom_id"]: row for row in seeds.rows(t.job)}
    seams, attempts = seeds.rows(t.seam), seeds.rows(t.attempt)
    for n, job in enumerate(jobs):
        row = rows[job.custom_id]
        assert (row["state"], row["resumes"]) == (states[n % 5], n % 3)
        assert row["bytes"] == (n + 1 if n % 5 else None)
        assert row["error_message"] == (CUT.message if n % 5 > 2 else None)
        assert [s["offset"] for s in seams if s["job_id"] == job.id] == [n] * (n % 3)
        ours = [a["request_id"] for a in attempts if a["job_id"] == job.id]
        assert ours == [f"req-{n}"] * (n % 2)
        assert text(seeds, job) == b"x" * (n + 1)
    agrees(seeds)


def test_every_column_of_a_checkpoint_is_its_own(seeds: Seeds) -> None:
    """No two of them are mixed up, in no row, and what was said is kept as it was said."""
    jobs = claimed(seeds, "a", "b", "c")
    beat = []
    for n, job in enumerate(jobs):
        at = 100 * n
        after = replace(
            entry(job).after,
            edition=at + 1,
            offsets={kind: at + 2 + i for i, kind in enumerate(Kind)},
            furthest=at + 6,
            stalls=at + 7,
            continuations=at + 8,
            spent=Spent(generated=at + 9, needed=at + 10, rebilled=at + 11, estimated=bool(n % 2)),
            strategy=["prefill", "", "replay"][n],
            cursor=["", '{"a,b": "\\\\ NULL"}', "слово 🙂"][n],
        )
        beat.append(replace(entry(job), after=after))

    assert commit_beat(seeds.database, beat) == frozenset()

    for n, (job, made) in enumerate(zip(jobs, beat, strict=True)):
        row = seeds.checkpoint(job.custom_id)
        assert [
            row[name]
            for name in (
                *("edition", "text", "reasoning", "refusal", "tool", "furthest", "stalls"),
                *("continuations", "generated", "needed", "rebilled"),
            )
        ] == [100 * n + i for i in range(1, 12)]
        assert (row["epoch"], row["seq"], bool(row["estimated"])) == (1, 1, bool(n % 2))
        assert (row["strategy"], row["cursor"]) == (made.after.strategy, made.after.cursor)


def test_of_many_exactly_the_lost_ones_are_lost(seeds: Seeds) -> None:
    """Settled, new and lost ones in one beat, in any order, with all that belongs to them."""
    jobs = claimed(seeds, *(f"job{n:02}" for n in range(30)))
    done = Completed(finish="stop")
    beat = [entry(job, b"x", ending=done, attempts=(ATTEMPT,), seams=(SEAM,)) for job in jobs]
    commit_beat(seeds.database, beat[:10])
    for job in jobs[10:20]:
        actions.cancel(seeds.database, Chosen(job_id=job.id), who="me")

    lost = commit_beat(seeds.database, [*reversed(beat)])

    assert lost == {job.owner_key for job in jobs[10:20]}
    for rows in (seeds.rows(t.attempt), seeds.rows(t.seam), seeds.rows(t.segment)):
        assert sorted(row["job_id"] for row in rows) == [j.id for j in jobs[:10] + jobs[20:]]
    agrees(seeds)


def test_a_job_whose_rows_are_gone_is_lost(seeds: Seeds) -> None:
    """Somebody pruned it: the others do not stop for it."""
    ours, gone = claimed(seeds, "ours", "gone")
    with seeds.database.write() as connection:
        connection.execute(t.checkpoint.delete().where(t.checkpoint.c.job_id == gone.id))

    lost = commit_beat(seeds.database, [entry(gone, b"z", seams=(SEAM,)), entry(ours, b"o")])

    assert lost == {gone.owner_key}
    assert text(seeds, ours) == b"o"


def test_kinds_of_one_job_go_on_in_one_beat(seeds: Seeds) -> None:
    """Thoughts and text of the same stream, beat after beat."""
    (job,) = claimed(seeds, "a")
    for n in range(3):
        made = entry(job, b"text")
        thought = Segment(kind=Kind.REASONING, edition=1, seq=n + 1, start=2 * n, data=b"hm")
        offsets = {**made.after.offsets, Kind.REASONING: 2 * n + 2}
        made = replace(
            made,
            segments=(*made.segments, thought),
            after=replace(made.after, offsets=offsets),
        )
        assert commit_beat(seeds.database, [made]) == frozenset()
        job = later(job, made)

    assert text(seeds, job) == b"text" * 3
    assert seeds.checkpoint("a")["reasoning"] == 6


@pytest.mark.parametrize("number", [2**40, 2**70, -(2**70)])
def test_a_number_that_no_column_takes_is_the_rows_own_fault(seeds: Seeds, number: int) -> None:
    """It is not taken for a trouble of the database, which would stop everybody."""
    good, bad = claimed(seeds, "good", "bad")
    wrong = entry(bad, b"x")
    if abs(number) < 2**63 and seeds.database.kind == "sqlite":
        number = 2**63  # its columns take what is smaller
    wrong = replace(wrong, after=replace(wrong.after, stalls=number))

    with pytest.raises((sa.exc.StatementError, OverflowError)) as caught:
        commit_beat(seeds.database, [entry(good, b"g"), wrong])

    assert not isinstance(caught.value, sa.exc.OperationalError)
    assert commit_beat(seeds.database, [entry(good, b"g")]) == frozenset()
    assert text(seeds, good) == b"g"
