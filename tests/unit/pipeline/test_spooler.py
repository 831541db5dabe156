"""The spooler: three positions, one entry in flight, and nothing kept that was refused."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.budget import STREAM_BYTES, Budget
from pipeline.ports import Delta
from pipeline.spooler import ClaimLostError, Spooler
from pipeline.watch import Live, Timeouts, Watch
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import (
    Attempt,
    Checkpoint,
    Completed,
    Endpoint,
    Failure,
    GaveUp,
    Job,
    Kind,
    Resume,
    Seam,
    Spent,
)

REFUSED = StreamError(ErrorKind.STORAGE, "the database refuses this job's data")
START = Checkpoint(
    epoch=2,
    seq=7,
    edition=1,
    offsets={Kind.TEXT: 10, Kind.REASONING: 3},
    furthest=10,
    spent=Spent(generated=5, needed=4, rebilled=1),
)
SEAM = Seam(edition=1, offset=10, strategy=Resume.PREFILL, cause="network")
ATTEMPT = Attempt(
    strategy="", started_at=0.0, ended_at=1.0, outcome="interrupted", edition=1, from_offset=0,
    to_offset=1,
)  # fmt: skip


def make(*, budget: Budget | None = None, max_bytes: int = 1 << 30) -> Spooler:
    """Make the spooler of a job that was claimed at `START`."""
    job = Job(
        id=1,
        batch_id=1,
        custom_id="a",
        endpoint=Endpoint(url="http://x/v1", model="m"),
        api="chat",
        body={},
        root="out",
        name="a.md",
        epoch=3,
        checkpoint=START,
    )
    return Spooler(job, worker="w", budget=budget or Budget(1 << 30, slots=1), max_bytes=max_bytes)


def text(data: bytes, chunks: int = 1) -> Delta:
    """Make a delta of visible text."""
    return Delta(kind=Kind.TEXT, data=data, chunks=chunks)


# --- cutting and committing -----------------------------------------------------------------------
def test_it_goes_on_under_the_claims_own_epoch() -> None:
    """The position is the claim's; the epoch in an older checkpoint is not ours to write under."""
    spooler = make()

    assert spooler.durable == spooler.head
    assert (spooler.durable.epoch, spooler.durable.seq, spooler.text) == (3, 7, 10)
    assert not spooler.is_dirty


def test_an_entry_carries_everything_since_the_last_one() -> None:
    """One segment per kind, the checkpoint that covers them, seams and attempts."""
    spooler = make()
    spooler.add(text(b"ab"))
    spooler.add(Delta(kind=Kind.REASONING, data=b"hm", chunks=2))
    spooler.add(text(b"cd", chunks=3))
    spooler.note(seam=SEAM, attempt=ATTEMPT)
    spooler.count(generated=4, rebilled=7, estimated=True)

    entry = spooler.cut()

    assert [(s.kind, s.seq, s.start, s.data) for s in entry.segments] == [
        (Kind.TEXT, 8, 10, b"abcd"),
        (Kind.REASONING, 8, 3, b"hm"),
    ]
    assert (entry.before.epoch, entry.before.seq) == (3, 7)
    assert (entry.after.epoch, entry.after.seq, entry.after.furthest) == (3, 8, 14)
    assert entry.after.offsets == {Kind.TEXT: 14, Kind.REASONING: 5}
    assert entry.after.spent == Spent(generated=15, needed=10, rebilled=8, estimated=True)
    assert (entry.seams, entry.attempts, entry.ending) == ((SEAM,), (ATTEMPT,), None)


def test_what_comes_during_a_commit_goes_with_the_next_beat() -> None:
    """At most one entry is in flight, and the next one follows on it without a gap."""
    spooler = make()
    spooler.add(text(b"ab"))
    first = spooler.cut()
    spooler.add(text(b"cd"))
    dirty_in_flight = spooler.is_dirty

    assert spooler.commit() == first
    second = spooler.cut()

    assert not dirty_in_flight

    assert second.before == first.after
    assert second.segments[0].start == first.segments[0].end
    assert spooler.durable == first.after


def test_an_empty_delta_makes_no_segment() -> None:
    """Two segments at one place would break the journal; its token still counts."""
    spooler = make()
    spooler.add(text(b""))

    entry = spooler.cut()

    assert entry.segments == ()
    assert entry.after.spent.generated == 6


def test_the_furthest_offset_survives_a_new_edition() -> None:
    """Law 9 measures progress beyond it, not beyond the restart."""
    spooler = make()
    spooler.new_edition()
    spooler.add(text(b"abc"))

    entry = spooler.cut()

    assert (entry.after.edition, entry.after.offsets) == (2, {Kind.TEXT: 3})
    assert (entry.after.furthest, entry.after.spent.needed) == (10, 1)
    assert (entry.segments[0].edition, entry.segments[0].start) == (2, 0)


def test_an_answer_beyond_its_bound_ends_the_stream() -> None:
    """A model that never stops must not fill the disk."""
    spooler = make(max_bytes=12)
    spooler.add(text(b"ab"))

    with pytest.raises(StreamError, match="max_output_bytes") as caught:
        spooler.add(text(b"c"))

    assert caught.value.kind is ErrorKind.TOO_LARGE


# --- the budget -----------------------------------------------------------------------------------
@pytest.mark.parametrize("fate", ["commit", "lose", "refuse", "drop"])
def test_the_budget_gets_back_what_it_gave(fate: str) -> None:
    """Whatever becomes of the bytes, they are not counted for ever."""
    budget = Budget(1 << 30, slots=1)
    spooler = make(budget=budget)
    spooler.add(text(b"ab"))
    spooler.cut()
    spooler.add(text(b"cde"))
    assert budget.used == 5

    match fate:
        case "commit":
            spooler.commit()
            assert budget.used == 3
        case "lose":
            spooler.lose()
        case "refuse":
            spooler.refuse(REFUSED)
        case _:
            spooler.commit()
    spooler.drop()

    assert budget.used == 0


async def test_a_stream_that_holds_its_share_waits_for_the_commit() -> None:
    """The others shall not starve because one is fast."""
    spooler = make()
    spooler.add(text(b"x" * STREAM_BYTES))
    spooler.cut()
    waiting = asyncio.ensure_future(spooler.room())
    await asyncio.sleep(0)
    assert not waiting.done()

    spooler.commit()

    await waiting


# --- settling -------------------------------------------------------------------------------------
async def test_settled_means_that_all_of_it_is_durable() -> None:
    """Also what came while the first part was being committed."""
    spooler = make()
    spooler.add(text(b"ab"))
    waiting = asyncio.ensure_future(spooler.settled())
    await asyncio.sleep(0)

    spooler.cut()
    spooler.add(text(b"cd"))
    spooler.commit()
    await asyncio.sleep(0)
    assert not waiting.done()
    spooler.cut()
    spooler.commit()

    await waiting
    assert spooler.durable.text == 14


@pytest.mark.parametrize("waiting_for", ["settled", "room"])
async def test_whoever_waits_learns_that_the_claim_is_lost(waiting_for: str) -> None:
    """Nobody waits for a commit that will never be."""
    spooler = make()
    spooler.add(text(b"x" * STREAM_BYTES))
    waiting = asyncio.ensure_future(
        spooler.settled() if waiting_for == "settled" else spooler.room()
    )
    await asyncio.sleep(0)

    spooler.lose()

    with pytest.raises(ClaimLostError):
        await waiting
    assert not spooler.is_dirty


# --- refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize("fate", ["lose", "refuse"])
async def test_a_silent_stream_is_interrupted_at_once(fate: str) -> None:
    """It would find out only when its next text comes, which may be minutes."""
    spooler = make()
    watching: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        with Live(Watch(Timeouts())) as spooler.live:
            watching.set_result(None)
            await asyncio.Event().wait()

    reading = asyncio.ensure_future(read())
    await watching
    spooler.add(text(b"ab"))
    spooler.cut()

    if fate == "lose":
        spooler.lose()
    else:
        spooler.refuse(REFUSED)

    with pytest.raises(ClaimLostError if fate == "lose" else StreamError):
        await reading


def test_behind_refused_text_nothing_is_added() -> None:
    """The next bytes would stand where the refused ones belong: a gap in the text."""
    spooler = make()
    spooler.add(text(b"bad"))
    spooler.cut()
    spooler.add(text(b"after"))

    spooler.refuse(REFUSED)

    with pytest.raises(StreamError):
        spooler.add(text(b"more"))
    spooler.note(attempt=ATTEMPT)
    assert not spooler.is_dirty
    assert (spooler.text, spooler.pending) == (10, 0)


async def test_a_proven_finish_does_not_cover_refused_text() -> None:
    """Law 5: what lost its end on the way to the disk is not complete."""
    spooler = make()
    spooler.add(text(b"bad"))
    spooler.cut()
    spooler.refuse(REFUSED)

    with pytest.raises(StreamError):
        spooler.end(Completed(finish="stop"))
    with pytest.raises(StreamError):
        await spooler.settled()


async def test_an_ending_in_flight_is_refused_with_its_text() -> None:
    """It does not go again by itself, without the bytes that it was for."""
    spooler = make()
    spooler.add(text(b"bad"))
    spooler.end(Completed(finish="stop"))
    spooler.cut()

    spooler.refuse(REFUSED)

    assert not spooler.is_dirty
    with pytest.raises(StreamError):
        await spooler.settled()


def test_after_a_refusal_the_job_ends_with_what_was_durable() -> None:
    """The failure is put on record, the seams and bytes of what was refused are not."""
    spooler = make()
    spooler.add(text(b"bad"))
    spooler.cut()
    spooler.note(seam=SEAM)
    spooler.mark(stalls=4)
    spooler.refuse(REFUSED)
    spooler.note(attempt=ATTEMPT)

    ending = GaveUp(failure=Failure(kind=ErrorKind.STORAGE, message="no"))
    spooler.accept()
    spooler.end(ending)
    entry = spooler.cut()

    assert (entry.segments, entry.seams, entry.attempts) == ((), (), (ATTEMPT,))
    assert (entry.ending, entry.before, entry.after.text) == (ending, spooler.durable, 10)
    assert entry.after.stalls == 0
