"""The beat over SQLite and PostgreSQL: all of it or nothing, and only where the claim stands."""

from __future__ import annotations

import threading
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.errors import ErrorKind
from tokenspool.model import (
    Attempt,
    Completed,
    Ending,
    Entry,
    Failure,
    GaveUp,
    GivenBack,
    Job,
    Kind,
    Postponed,
    Resume,
    Seam,
    Segment,
    Spent,
)
from tokenspool.store import actions, claims, reads
from tokenspool.store.actions import Chosen
from tokenspool.store.beat import commit_beat
from tokenspool.store.text import read_text

CUT = Failure(kind=ErrorKind.NETWORK, message="the stream was cut")
ATTEMPT = Attempt(
    strategy="prefill", started_at=1.0, ended_at=2.0, outcome="interrupted", failure=CUT,
    edition=1, from_offset=0, to_offset=4, first_token_s=0.5, request_id="req-1", generated=9,
    rebilled=3, skipped=1,
)  # fmt: skip
SEAM = Seam(
    edition=1, offset=0, strategy=Resume.PREFILL, cause="network", overlap=2, verified=True,
    rebilled=3,
)  # fmt: skip


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def entry(job: Job, data: bytes = b"", *, ending: Ending | None = None, **more: Any) -> Entry:
    """Make what a stream hands to a beat."""
    before = job.checkpoint
    start = before.text
    after = replace(
        before,
        seq=before.seq + 1,
        offsets={**before.offsets, Kind.TEXT: start + len(data)},
        furthest=start + len(data),
        spent=Spent(generated=before.spent.generated + len(data), needed=len(data), rebilled=2),
    )
    segment = Segment(kind=Kind.TEXT, edition=before.edition, seq=after.seq, start=start, data=data)
    return Entry(
        job=job,
        worker="w",
        before=before,
        after=after,
        segments=(segment,) if data else (),
        ending=ending,
        **more,
    )


def later(job: Job, committed: Entry) -> Job:
    """Give a job as it stands behind a committed entry."""
    return changed(job, checkpoint=committed.after)


def text(seeds: Seeds, job: Job, edition: int = 1) -> bytes:
    """Read a job's text."""
    with seeds.database.read() as connection:
        return b"".join(read_text(connection, job.id, edition=edition))


def claimed(seeds: Seeds, *names: str) -> list[Job]:
    """Make claimed jobs."""
    seeds.enqueue(*names)
    return seeds.claim()


def agrees(seeds: Seeds) -> None:
    """Compare the counts with the rows that they count."""
    with seeds.database.read() as connection:
        found = reads.counts(connection)
        rows = connection.execute(
            sa.select(t.job.c.state, sa.func.count().label("jobs")).group_by(t.job.c.state)
        )
        states = {row.state: row.jobs for row in rows}
        sums = connection.execute(
            sa.select(
                sa.func.coalesce(sa.func.sum(t.checkpoint.c.text), 0),
                sa.func.coalesce(sa.func.sum(t.checkpoint.c.generated), 0),
                sa.func.coalesce(sa.func.sum(t.checkpoint.c.needed), 0),
                sa.func.coalesce(sa.func.sum(t.checkpoint.c.rebilled), 0),
            )
        ).one()
    assert {s.value: n for s, n in found.jobs.items() if n} == states
    counted = (found.bytes, found.generated, found.needed, found.rebilled)
    assert counted == tuple(int(one) for one in sums)


# --- what a beat makes true -----------------------------------------------------------------------
def test_text_and_checkpoint_become_true_together(seeds: Seeds) -> None:
    """Everything that a stream gathered stands, in its own columns."""
    (job,) = claimed(seeds, "a")
    after = replace(
        entry(job, b"text").after, stalls=2, continuations=3, strategy="prefill", cursor="c-1"
    )
    more = Segment(kind=Kind.REASONING, edition=1, seq=1, start=0, data=b"hm")
    made = entry(job, b"text", seams=(SEAM,), attempts=(ATTEMPT,))
    made = replace(
        made,
        segments=(*made.segments, more),
        after=replace(after, offsets={Kind.TEXT: 4, Kind.REASONING: 2}),
    )

    assert commit_beat(seeds.database, [made]) == frozenset()

    row = seeds.checkpoint("a")
    assert claims.checkpoint_from(row) == replace(
        made.after, offsets={kind: made.after.offsets.get(kind, 0) for kind in Kind}
    )
    assert text(seeds, job) == b"text"
    (attempt,) = seeds.rows(t.attempt)
    assert (attempt["outcome"], attempt["error_kind"], attempt["request_id"]) == (
        "interrupted", "network", "req-1",
    )  # fmt: skip
    assert (attempt["generated"], attempt["rebilled"], attempt["skipped"]) == (9, 3, 1)
    (seam,) = seeds.rows(t.seam)
    assert (seam["strategy"], seam["overlap"], bool(seam["verified"])) == ("prefill", 2, True)
    assert seeds.row("a")["resumes"] == 1
    agrees(seeds)


def test_every_byte_comes_back(seeds: Seeds) -> None:
    """Also those that a text column would refuse."""
    (job,) = claimed(seeds, "a")
    data = bytes(range(256)) * 3

    commit_beat(seeds.database, [entry(job, data)])

    assert text(seeds, job) == data


@pytest.mark.parametrize("message", ["a NUL: \0", "half a pair: \ud83d", "🙂 слово 水"])
def test_an_endpoints_words_cannot_break_a_beat(seeds: Seeds, message: str) -> None:
    """Whatever an error says, the job ends with it and not with a broken journal."""
    (job,) = claimed(seeds, "a")
    failure = Failure(kind=ErrorKind.REQUEST, message=message)
    attempt = changed(ATTEMPT, failure=failure, request_id=message)

    commit_beat(
        seeds.database, [entry(job, b"x", ending=GaveUp(failure=failure), attempts=(attempt,))]
    )

    said = seeds.row("a")["error_message"]
    assert seeds.row("a")["state"] == "failed"
    assert said[:5] == message[:5]
    assert "\0" not in said


# --- the fence ------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["reclaimed", "claimed again", "cancelled", "seq"])
def test_who_lost_the_claim_commits_nothing_and_the_others_do(seeds: Seeds, how: str) -> None:
    """Neither text nor records nor counts nor an ending."""
    ours, stolen = claimed(seeds, "ours", "stolen")
    with seeds.database.write() as connection:
        if how == "seq":
            seq = sa.update(t.checkpoint).where(t.checkpoint.c.job_id == stolen.id)
            connection.execute(seq.values(seq=5))
        elif how != "cancelled":
            mine = sa.update(t.job).where(t.job.c.id == stolen.id).values(owner="dead")
            connection.execute(mine)
            claims.reclaim(connection, dead=["dead"], max_crashes=3)
    if how == "cancelled":
        actions.cancel(seeds.database, Chosen(job_id=stolen.id), who="me")
    if how == "claimed again":
        seeds.claim(worker="other")
    before = seeds.row("stolen"), seeds.checkpoint("stolen"), len(seeds.rows(t.attempt))

    lost = commit_beat(
        seeds.database,
        [
            entry(
                stolen, b"z", ending=Completed(finish="stop"), seams=(SEAM,), attempts=(ATTEMPT,)
            ),
            entry(ours, b"o"),
        ],
    )

    assert lost == {stolen.owner_key}
    assert (text(seeds, stolen), text(seeds, ours)) == (b"", b"o")
    assert before == (seeds.row("stolen"), seeds.checkpoint("stolen"), len(seeds.rows(t.attempt)))
    assert seeds.rows(t.seam) == []
    agrees(seeds)


def test_a_beat_of_losers_only_is_no_error(seeds: Seeds) -> None:
    """All were stolen: there is nothing to commit."""
    jobs = claimed(seeds, "a", "b")
    actions.cancel(seeds.database, Chosen(batch_id=1), who="me")

    assert commit_beat(seeds.database, [entry(j, b"z") for j in jobs]) == {
        j.owner_key for j in jobs
    }
    agrees(seeds)


def test_an_empty_beat_is_no_error(seeds: Seeds) -> None:
    """Nothing to do is done."""
    assert commit_beat(seeds.database, []) == frozenset()


def test_the_same_beat_again_counts_once(seeds: Seeds) -> None:
    """A commit whose answer was lost: the second call settles it."""
    a, b = claimed(seeds, "a", "b")
    beat = [
        entry(a, b"one", attempts=(ATTEMPT,)),
        entry(b, b"two", ending=Completed(finish="stop")),
    ]

    assert commit_beat(seeds.database, beat) == frozenset()
    assert commit_beat(seeds.database, beat) == frozenset()

    assert (text(seeds, a), text(seeds, b)) == (b"one", b"two")
    assert len(seeds.rows(t.segment)) == 2
    assert len(seeds.rows(t.attempt)) == 1
    assert seeds.row("b")["attempts"] == 1
    agrees(seeds)


def test_what_is_settled_already_goes_along_with_what_is_new(seeds: Seeds) -> None:
    """After a split one half may have been committed before."""
    a, b, c = claimed(seeds, "a", "b", "c")
    first = entry(a, b"one")
    commit_beat(seeds.database, [first])
    actions.cancel(seeds.database, Chosen(job_id=c.id), who="me")

    lost = commit_beat(seeds.database, [first, entry(b, b"two"), entry(c, b"z")])

    assert lost == {c.owner_key}
    assert [text(seeds, job) for job in (a, b, c)] == [b"one", b"two", b""]
    agrees(seeds)


def test_refused_data_leaves_nothing_of_its_beat(seeds: Seeds) -> None:
    """All or nothing: the journal may split the group and try the rest again."""
    a, b = claimed(seeds, "a", "b")
    bad = entry(b, b"two")
    bad = replace(bad, segments=bad.segments * 2)  # two at one place

    with pytest.raises(sa.exc.IntegrityError):
        commit_beat(seeds.database, [entry(a, b"one"), bad])

    assert (text(seeds, a), text(seeds, b)) == (b"", b"")
    assert commit_beat(seeds.database, [entry(a, b"one")]) == frozenset()
    agrees(seeds)


def test_a_thousand_streams_are_one_beat(seeds: Seeds) -> None:
    """And one among them that was stolen does not show in the others."""
    jobs = claimed(seeds, *(f"job{n}" for n in range(1000)))
    actions.cancel(seeds.database, Chosen(job_id=jobs[500].id), who="me")

    lost = commit_beat(seeds.database, [entry(job, b"x" * 20) for job in jobs])

    assert lost == {jobs[500].owner_key}
    assert len(seeds.rows(t.segment)) == 999
    agrees(seeds)


# --- endings --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ending", "state", "attempts", "error"),
    [
        (Completed(finish="length"), "complete", 1, None),
        (GivenBack(cause="drain"), "pending", 0, None),
        (Postponed(failure=CUT, delay_s=60.0), "waiting", 0, "network"),
        (Postponed(failure=CUT, delay_s=60.0, spends=True), "waiting", 1, "network"),
        (GaveUp(failure=CUT), "failed", 1, "network"),
        (GaveUp(failure=CUT, spends=False), "failed", 0, "network"),
    ],
)
def test_each_ending_settles_its_job(
    seeds: Seeds, ending: Ending, state: str, attempts: int, error: str | None
) -> None:
    """In the same transaction as the last text."""
    (job,) = claimed(seeds, "a")

    commit_beat(seeds.database, [entry(job, b"last", ending=ending)])

    row = seeds.row("a")
    assert (row["state"], row["attempts"], row["error_kind"]) == (state, attempts, error)
    assert row["owner"] == ("w" if state == "complete" else None)
    assert (row["run_at"] is not None) == (state == "waiting")
    assert (row["ended_at"] is not None) == (state == "failed")
    assert row["finish"] == ("length" if state == "complete" else None)
    assert row["cause"] == {"pending": "drain", "complete": ""}.get(state, "network")
    assert (row["bytes"], text(seeds, job)) == (4, b"last")
    agrees(seeds)


def test_an_ending_clears_the_crashes_before_it(seeds: Seeds) -> None:
    """They count only in a row."""
    claimed(seeds, "a")
    with seeds.database.write() as connection:
        claims.reclaim(connection, dead=["w"], max_crashes=3)
    (job,) = seeds.claim()

    commit_beat(seeds.database, [entry(job, b"x", ending=GivenBack(cause="drain"))])

    assert seeds.row("a")["crashes"] == 0


def test_a_new_edition_takes_its_text_out_of_the_counts(seeds: Seeds) -> None:
    """Kept bytes are those of the edition that stands; the old segments stay."""
    (job,) = claimed(seeds, "a")
    first = entry(job, b"the first try")
    commit_beat(seeds.database, [first])
    job = later(job, first)
    second = entry(changed(job, checkpoint=replace(job.checkpoint, edition=2, offsets={})), b"anew")
    second = replace(second, before=first.after)

    commit_beat(seeds.database, [second])

    assert (text(seeds, job, 1), text(seeds, job, 2)) == (b"the first try", b"anew")
    agrees(seeds)


# --- at the same time -----------------------------------------------------------------------------
def test_a_claim_and_a_zombies_beats_never_both_win(seeds: Seeds) -> None:
    """The new claim's position is exactly what was committed, whatever the old one tries."""
    seeds.enqueue("a")
    (taken,) = seeds.claim()
    for _ in range(12):
        job = taken
        begun, lost = threading.Event(), threading.Event()

        def zombie(
            job: Job = job, begun: threading.Event = begun, lost: threading.Event = lost
        ) -> None:
            for _ in range(10_000):
                made = entry(job, b"zombie ")
                if commit_beat(seeds.database, [made]):
                    lost.set()
                    return
                job = later(job, made)
                begun.set()

        thread = threading.Thread(target=zombie)
        thread.start()
        begun.wait(10)
        with seeds.database.write() as connection:
            claims.reclaim(connection, dead=None, max_crashes=99)
        (taken,) = seeds.claim()
        thread.join(10)

        assert lost.is_set()
        assert len(text(seeds, taken)) == taken.checkpoint.text
        made = entry(taken, b"ours ", ending=GivenBack(cause="drain"))
        assert commit_beat(seeds.database, [made]) == frozenset()
        (taken,) = seeds.claim()
    assert text(seeds, taken).startswith(b"zombie ")
    agrees(seeds)


def test_people_and_beats_do_not_stop_each_other(seeds: Seeds) -> None:
    """Cancelling jobs that just end: each is the one or the other, and nobody is turned away."""
    failures: list[BaseException] = []
    for number in range(10):
        names = [f"job{number}-{n}" for n in range(8)]
        jobs = claimed(seeds, *names)
        begin = threading.Barrier(2)

        def beat(jobs: list[Job] = jobs, begin: threading.Barrier = begin) -> None:
            begin.wait()
            done = Completed(finish="stop")
            commit_beat(
                seeds.database, [entry(j, b"x", ending=done, seams=(SEAM,)) for j in reversed(jobs)]
            )

        def cancel(begin: threading.Barrier = begin) -> None:
            begin.wait()
            actions.cancel(seeds.database, Chosen(batch_id=1), who="me")

        threads = [threading.Thread(target=_kept, args=(failures, act)) for act in (beat, cancel)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failures == []
    agrees(seeds)


def _kept(failures: list[BaseException], act: Any) -> None:
    try:
        act()
    except BaseException as error:  # noqa: BLE001 - shown by the test
        failures.append(error)
