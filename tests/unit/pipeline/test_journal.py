"""The journal: one commit for all, tried again while the database is away, split for bad data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from pipeline import journal as journal_module
from pipeline.budget import Budget
from pipeline.journal import KICK_BYTES, Journal
from pipeline.ports import Delta
from pipeline.spooler import ClaimLostError, Spooler
from tests.unit.pipeline.waiting import a_while, until
from tokenspool.database import DatabaseError
from tokenspool.errors import ErrorKind, StreamError, Unavailable
from tokenspool.model import Checkpoint, Completed, Endpoint, Entry, Job, Kind
from worker.clock import Clock, Rhythm

AWAY = DatabaseError("spool.db", "database is locked", passing=True)
BROKEN = DatabaseError("spool.db", "attempt to write a readonly database", passing=False)


@dataclass
class Store:
    """A database in memory with the same fence, that fails as it is told."""

    #: Raised by the next calls, in order; None lets one pass.
    errors: list[Exception | None] = field(default_factory=list)
    #: Raised after the commit was done, in order.
    answers: list[Exception | None] = field(default_factory=list)
    #: Jobs whose data it refuses.
    bad: set[int] = field(default_factory=set)
    at: dict[int, tuple[int, int]] = field(default_factory=dict)
    texts: dict[int, bytes] = field(default_factory=dict)
    calls: list[list[int]] = field(default_factory=list)

    def commit(self, entries: Sequence[Entry]) -> frozenset[tuple[int, int]]:
        """See `ports.Store`."""
        self.calls.append([e.job.id for e in entries])
        if self.errors and (error := self.errors.pop(0)):
            raise error
        if self.bad & {e.job.id for e in entries}:
            msg = "a NUL in a text column"
            raise ValueError(msg)
        lost = set()
        for e in entries:
            if self.at.get(e.job.id, (e.job.epoch, 0)) == (e.after.epoch, e.after.seq):
                continue
            if self.at.get(e.job.id, (e.job.epoch, 0)) != (e.before.epoch, e.before.seq):
                lost.add(e.job.owner_key)
                continue
            self.at[e.job.id] = (e.after.epoch, e.after.seq)
            self.texts[e.job.id] = self.texts.get(e.job.id, b"") + e.segments[0].data
        if self.answers and (error := self.answers.pop(0)):
            raise error
        return frozenset(lost)

    def stands(self, job_id: int, epoch: int) -> bool:
        """See `ports.Store`."""
        raise NotImplementedError

    def born(self, job_id: int) -> str:
        """See `ports.Store`."""
        raise NotImplementedError

    def text(
        self, job_id: int, *, edition: int, kind: Kind, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """See `ports.Store`."""
        yield self.texts[job_id][start:stop] if (edition, kind) == (1, Kind.TEXT) else b""


@dataclass
class Bench:
    """A journal over the store, and what it showed."""

    store: Store
    budget: Budget
    journal: Journal
    shown: list[tuple[int, int]]

    def spooler(self, job_id: int) -> Spooler:
        """Attach a stream."""
        job = Job(
            id=job_id,
            batch_id=1,
            custom_id=str(job_id),
            endpoint=Endpoint(url="http://x/v1", model="m"),
            api="chat",
            body={},
            root="out",
            name=f"{job_id}.md",
            epoch=1,
            checkpoint=Checkpoint(epoch=1),
        )
        spooler = Spooler(job, worker="w", budget=self.budget, max_bytes=1 << 30)
        self.journal.attach(spooler)
        return spooler

    def say(self, spooler: Spooler, data: bytes) -> None:
        """Let a stream receive text."""
        spooler.add(Delta(kind=Kind.TEXT, data=data))
        self.journal.touch(spooler)


@pytest.fixture
def beat_s() -> float:
    """How long a beat is."""
    return 0.001


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch, beat_s: float) -> AsyncIterator[Bench]:
    """Make a journal that does not wait long, and that beats when it is told."""
    monkeypatch.setattr(journal_module, "AWAY_S", 0.0005)
    monkeypatch.setattr(journal_module, "AWAY_CAP_S", 0.001)
    store, shown = Store(), list[tuple[int, int]]()

    def show(entries: Sequence[Entry]) -> None:
        shown.extend((e.job.id, e.after.text) for e in entries)

    journal = Journal(store, Clock(Rhythm(beat_s=beat_s)), show=show)
    yield Bench(store, Budget(1 << 30, slots=1), journal, shown)
    journal.close()


async def test_one_beat_commits_all_streams_at_once(bench: Bench) -> None:
    """One fsync for a thousand streams; who has nothing takes no part."""
    some = [bench.spooler(n) for n in (1, 2, 3)]
    bench.say(some[0], b"a")
    bench.say(some[2], b"ccc")

    await bench.journal.beat()

    assert [sorted(call) for call in bench.store.calls] == [[1, 3]]
    assert sorted(bench.shown) == [(1, 1), (3, 3)]
    assert (some[0].durable.text, some[1].durable.text, some[2].durable.text) == (1, 0, 3)
    assert bench.budget.used == 0


async def test_an_idle_beat_does_not_touch_the_database(bench: Bench) -> None:
    """Twenty empty commits a second would be twenty fsyncs."""
    bench.spooler(1)

    await bench.journal.beat()

    assert bench.store.calls == []


async def test_a_database_that_is_away_gets_the_same_beat_again(bench: Bench) -> None:
    """What gathers meanwhile goes with the next one; nothing is lost and nothing doubled."""
    spooler = bench.spooler(1)
    bench.store.errors = [AWAY, AWAY, AWAY]
    bench.say(spooler, b"ab")
    beating = asyncio.ensure_future(bench.journal.beat())
    await until(lambda: bench.store.calls)
    bench.say(spooler, b"cd")

    await beating
    await bench.journal.beat()

    assert bench.store.texts == {1: b"abcd"}
    assert bench.shown == [(1, 2), (1, 4)]
    assert bench.journal.trouble is None


async def test_the_person_is_told_while_the_database_is_away(bench: Bench) -> None:
    """The reason stands until a beat is committed again."""
    bench.store.errors = [AWAY] * 1000
    bench.say(bench.spooler(1), b"ab")
    beating = asyncio.ensure_future(bench.journal.beat())
    await until(lambda: bench.journal.trouble)

    assert "database is locked" in str(bench.journal.trouble)
    bench.store.errors.clear()
    await beating
    assert bench.journal.trouble is None


async def test_a_database_that_will_not_come_back_ends_the_run(bench: Bench) -> None:
    """Waiting for it would be for ever."""
    bench.store.errors = [BROKEN]
    bench.say(bench.spooler(1), b"ab")

    with pytest.raises(Unavailable, match="readonly"):
        await bench.journal.beat()


async def test_that_is_known_also_when_a_full_stream_asked_for_the_beat(bench: Bench) -> None:
    """A beat out of turn has nobody who waits for it: the next one in turn says it."""
    bench.store.errors = [BROKEN]
    bench.say(bench.spooler(1), b"x" * KICK_BYTES)
    running = asyncio.ensure_future(bench.journal.run())

    with pytest.raises(Unavailable, match="readonly"):
        await asyncio.wait_for(running, 5)


@pytest.mark.parametrize("bad", [{0}, {5}, {9}, {0, 1}, {2, 7}, set(range(10))])
async def test_refused_data_stands_alone_and_the_others_commit(bench: Bench, bad: set[int]) -> None:
    """A NUL in one stream must not stop the other 999."""
    streams = {n: bench.spooler(n) for n in range(10)}
    bench.store.bad = bad
    for spooler in streams.values():
        bench.say(spooler, b"ab")

    await bench.journal.beat()

    assert bench.store.texts == {n: b"ab" for n in range(10) if n not in bad}
    for n, spooler in streams.items():
        if n in bad:
            with pytest.raises(StreamError) as caught:
                spooler.check()
            assert caught.value.kind is ErrorKind.STORAGE
        else:
            spooler.check()
            assert spooler.durable.text == 2
    assert bench.budget.used == 0


async def test_a_refusal_while_the_database_comes_and_goes_is_still_one_streams(
    bench: Bench,
) -> None:
    """The halves wait as the whole does."""
    streams = [bench.spooler(n) for n in range(4)]
    bench.store.bad, bench.store.errors = {2}, [None, AWAY, None, AWAY]
    for spooler in streams:
        bench.say(spooler, b"ab")

    await bench.journal.beat()

    assert bench.store.texts == {0: b"ab", 1: b"ab", 3: b"ab"}


async def test_who_lost_the_claim_stops_and_the_others_go_on(bench: Bench) -> None:
    """Law 2: nothing of the loser is committed or shown."""
    ours, stolen = bench.spooler(1), bench.spooler(2)
    bench.store.at[2] = (2, 0)
    bench.say(ours, b"a")
    bench.say(stolen, b"b")

    await bench.journal.beat()

    assert bench.store.texts == {1: b"a"}
    assert bench.shown == [(1, 1)]
    with pytest.raises(ClaimLostError):
        stolen.check()
    ours.check()


async def test_a_commit_whose_answer_was_lost_counts_once(bench: Bench) -> None:
    """The second try finds it done."""
    one, two = bench.spooler(1), bench.spooler(2)
    bench.store.answers = [AWAY]
    bench.say(one, b"a")
    bench.say(two, b"b")

    await bench.journal.beat()
    bench.say(one, b"c")
    await bench.journal.beat()

    assert bench.store.texts == {1: b"ac", 2: b"b"}
    assert len(bench.store.calls) == 3


async def test_readers_are_woken_while_a_commit_waits(bench: Bench) -> None:
    """A database that is away stops nobody from reading: the budget does, when it is full."""
    bench.store.errors = [AWAY] * 100_000
    bench.say(bench.spooler(1), b"ab")
    running = asyncio.ensure_future(bench.journal.run())
    await until(lambda: bench.journal.trouble)

    for _ in range(3):
        await bench.journal._clock.tick(1)

    assert bench.journal.trouble
    bench.store.errors.clear()
    running.cancel()


@pytest.mark.parametrize("beat_s", [3600.0])
async def test_a_full_stream_does_not_wait_for_its_beat(bench: Bench) -> None:
    """16 KiB are worth a commit of their own, and one only."""
    spooler = bench.spooler(1)
    running = asyncio.ensure_future(bench.journal.run())

    bench.say(spooler, b"x" * (KICK_BYTES - 1))
    await a_while()
    early = list(bench.store.calls)
    bench.say(spooler, b"x")
    bench.say(spooler, b"x")
    await until(lambda: spooler.durable.text)

    assert (early, bench.store.calls) == ([], [[1]])
    assert spooler.durable.text == KICK_BYTES + 1
    running.cancel()


@pytest.mark.parametrize("beat_s", [3600.0])
async def test_after_its_own_beat_a_stream_can_ask_for_the_next(bench: Bench) -> None:
    """One that keeps pouring is committed 16 KiB at a time, not once and never again."""
    spooler = bench.spooler(1)
    running = asyncio.ensure_future(bench.journal.run())

    for _ in range(3):
        bench.say(spooler, b"x" * KICK_BYTES)
        await until(lambda: not spooler.pending and not spooler.in_flight)
        await a_while()

    assert len(bench.store.calls) == 3
    running.cancel()


@pytest.mark.parametrize("act", ["beat", "settle"])
async def test_settling_waits_for_the_beat_that_carries_all(bench: Bench, act: str) -> None:
    """Returned means durable."""
    spooler = bench.spooler(1)
    bench.say(spooler, b"ab")
    settling = asyncio.ensure_future(bench.journal.settle(spooler))
    running = asyncio.ensure_future(bench.journal.run())
    if act == "beat":
        await bench.journal.beat()

    await settling

    assert bench.store.texts == {1: b"ab"}
    running.cancel()


async def test_other_operations_wait_for_the_database_too(bench: Bench) -> None:
    """A claim or a heartbeat in a bad moment is no failure."""
    tries = iter([AWAY, AWAY])

    def operation() -> str:
        for error in tries:
            raise error
        return "claimed"

    assert await bench.journal.call(operation) == "claimed"


async def test_an_operation_that_fails_says_so(bench: Bench) -> None:
    """Only "not now" is waited for."""

    def broken() -> None:
        raise BROKEN

    def wrong() -> None:
        raise KeyError

    with pytest.raises(Unavailable):
        await bench.journal.call(broken)
    with pytest.raises(KeyError):
        await bench.journal.call(wrong)


async def test_a_detached_stream_gives_its_room_back(bench: Bench) -> None:
    """What it still held is dropped, and no later beat takes it up."""
    spooler = bench.spooler(1)
    bench.say(spooler, b"ab")

    bench.journal.detach(spooler)
    await bench.journal.beat()

    assert bench.store.calls == []
    assert bench.budget.used == 0


async def test_a_silent_stream_is_told_of_its_loss(bench: Bench) -> None:
    """The heartbeat knows before any text comes."""
    spooler = bench.spooler(1)

    bench.journal.lose((1, 1))
    bench.journal.lose((1, 99))  # not ours

    with pytest.raises(ClaimLostError):
        spooler.check()


async def test_a_loss_during_a_commit_is_left_to_the_commit(bench: Bench) -> None:
    """The fence in the row decides, not what somebody read before."""
    spooler = bench.spooler(1)
    bench.say(spooler, b"ab")
    entry: Callable[[], Entry] = spooler.cut
    entry()

    bench.journal.lose((1, 1))

    assert not spooler.lost
    spooler.commit()


async def test_a_finished_job_can_be_settled_without_any_text(bench: Bench) -> None:
    """An ending alone is a beat."""
    spooler = bench.spooler(1)
    bench.say(spooler, b"ab")
    await bench.journal.beat()
    bench.store.texts.clear()
    running = asyncio.ensure_future(bench.journal.run())

    spooler.add(Delta(kind=Kind.TEXT, data=b"c"))
    spooler.end(Completed(finish="stop"))
    await bench.journal.settle(spooler)

    assert bench.store.at[1] == (1, 2)
    running.cancel()
