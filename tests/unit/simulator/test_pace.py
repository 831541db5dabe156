"""How fast answers are given, and that nothing piles up."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterable, Iterator

import pytest

from simulator.counts import Record
from simulator.flow import BATCH_BYTES, Delivery, Flow
from simulator.steps import Break, Cut, Piece, Raw, Send, Step, Steps, Wait
from simulator.wheel import TURN_S, Wheel
from tests.unit.simulator.client import body_of
from tests.unit.simulator.conftest import Start


class ManualLoop(asyncio.SelectorEventLoop):
    """A loop whose time stands still until it is moved, and that runs what is due then."""

    now = 1000.0

    def time(self) -> float:
        """Give the time that was set."""
        return self.now

    def run_once(self) -> None:
        """Run what can be run at this time."""
        self.call_soon(self.stop)
        self.run_forever()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, a turn of the wheel at a time."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + TURN_S)
            self.run_once()


class Tape:
    """A connection that keeps what is written, and when."""

    def __init__(self, loop: ManualLoop) -> None:
        self._loop = loop
        self.writes: list[tuple[float, bytes]] = []
        self.ended = ""
        self.flow: Flow | None = None
        #: Behind how many writes the connection is full.
        self.full_at = 1_000_000

    def write(self, data: bytes) -> None:
        """Keep it."""
        if data:
            self.writes.append((round(self._loop.now - 1000, 3), data))
        if len(self.writes) == self.full_at and self.flow:
            self.flow.pause()

    def cut(self, how: Break) -> None:
        """Keep this too."""
        self.ended = how

    def answered(self) -> None:
        """And this."""
        self.ended = "answered"

    @property
    def times(self) -> list[float]:
        """When something was written."""
        return [when for when, _ in self.writes]

    @property
    def data(self) -> bytes:
        """All that was written."""
        return b"".join(data for _, data in self.writes)


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    """Give a loop with a time of its own."""
    loop = ManualLoop()
    yield loop
    loop.close()


def play(
    loop: ManualLoop,
    steps: Iterable[Step],
    *,
    rate: float = 0.0,
    chunked: bool = False,
    full_at: int = 1_000_000,
) -> tuple[Tape, Flow, Record]:
    """Start a flow of these steps."""

    def generated() -> Steps:
        yield from steps

    record = Record(number=1, model="m", question="", kind="answer", stream=True, prefix_bytes=0)
    tape = Tape(loop)
    flow = Flow(
        Delivery(steps=generated(), record=record, chunked=chunked),
        tape,
        loop=loop,
        wheel=Wheel(loop),
        rate=rate,
        ended=lambda _: None,
    )
    tape.flow, tape.full_at = flow, full_at
    flow.start()
    return tape, flow, record


def test_tokens_keep_their_pace_for_hours(loop: ManualLoop) -> None:
    """Each within a turn of the wheel of its time; lateness does not add up."""
    tape, _, record = play(loop, (b"t" for _ in range(1000)), rate=50)

    loop.pass_time(25)

    late = [when - number / 50 for number, when in enumerate(tape.times)]
    assert min(late) >= 0
    assert max(late) <= TURN_S + 0.001
    assert record.tokens == 1000
    assert tape.ended == "answered"


def test_every_token_is_a_write_of_its_own(loop: ManualLoop) -> None:
    """At a pace; also when a late turn has several to send."""
    tape, _, _ = play(loop, (b"t" for _ in range(100)), rate=1000)

    loop.pass_time(1)

    assert {data for _, data in tape.writes} == {b"t"}
    assert len(tape.writes) == 100


def test_in_burst_many_tokens_are_one_write(loop: ManualLoop) -> None:
    """And other streams have a turn between two of them."""
    tape, _, record = play(loop, (b"12345678" for _ in range(20_000)))
    assert len(tape.writes) == 1
    other, _, _ = play(loop, [b"x"])

    for _ in range(5):
        loop.run_once()

    assert other.ended == tape.ended == "answered"
    assert len(tape.writes) == 20_000 * 8 // BATCH_BYTES + 1
    assert record.tokens == 20_000


@pytest.mark.parametrize("rate", [0, 50])
def test_a_wait_is_kept(loop: ManualLoop, rate: float) -> None:
    """At least so long, and some turns of the wheel longer at most."""
    tape, _, _ = play(loop, [b"a", Wait(2.003), b"b"], rate=rate)

    loop.pass_time(4)

    assert tape.data == b"ab"
    assert 2.003 <= tape.times[-1] - tape.times[0] <= 2.003 + 3 * TURN_S + 0.02


@pytest.mark.parametrize("rate", [0, 50])
def test_pieces_are_written_in_turns_of_their_own(loop: ManualLoop, rate: float) -> None:
    """Two writes of one turn of the loop would leave together."""
    tape, _, _ = play(loop, [Piece(b"a"), Piece(b"b")], rate=rate)
    assert tape.data == b"a"

    loop.run_once()

    assert tape.data == b"ab"


@pytest.mark.parametrize("rate", [0, 50])
def test_what_is_not_read_is_not_made(loop: ManualLoop, rate: float) -> None:
    """A full connection stops the steps; when it empties they go on, at the old pace."""
    taken = 0

    def steps() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(100_000):
            taken += 1
            yield b"12345678"

    tape, flow, record = play(loop, steps(), rate=rate, full_at=3)
    loop.pass_time(10)
    stopped = taken
    tape.full_at = 1_000_000
    flow.resume()
    loop.pass_time(1)

    assert stopped <= 3 * BATCH_BYTES // 8
    assert len(tape.writes) > 3
    assert record.tokens == 100_000 if rate == 0 else 50 <= len(tape.writes) - 3 <= 52


@pytest.mark.parametrize("rate", [0, 50])
def test_after_a_cut_there_is_nothing(loop: ManualLoop, rate: float) -> None:
    """What was said before it was written before it."""
    tape, _, record = play(loop, [b"a", Send(b"b"), Cut("rst"), b"c"], rate=rate, chunked=True)

    loop.pass_time(1)

    assert tape.data == b"1\r\na\r\n1\r\nb\r\n"
    assert (tape.ended, record.ended, record.tokens) == ("rst", "cut", 1)


def test_a_body_in_chunks_has_no_empty_one_but_the_last(loop: ManualLoop) -> None:
    """A token without bytes is counted and not written: an empty chunk would end the body."""
    tape, _, record = play(loop, [Raw(b"HEAD"), Send(b"", 3), b"a"], chunked=True)

    assert tape.data == b"HEAD1\r\na\r\n0\r\n\r\n"
    assert record.tokens == 4


def test_a_client_that_left_costs_nothing_more(loop: ManualLoop) -> None:
    """No token is made after it, and the wheel stands still."""
    tape, flow, record = play(loop, (b"t" for _ in range(100)), rate=50)
    loop.pass_time(0.1)
    said = record.tokens

    flow.lose()
    loop.pass_time(1)

    assert record.tokens == said < 100
    assert record.ended == "client"
    assert len(tape.writes) == said


class Note:
    """Something that is due, and notes when it was called."""

    def __init__(self, loop: ManualLoop) -> None:
        self._loop = loop
        self.called: list[float] = []

    def step(self, now: float) -> None:
        """Note it."""
        assert now == self._loop.now
        self.called.append(now)


def test_nothing_is_done_before_its_time(loop: ManualLoop) -> None:
    """And nothing more than a turn after it, but for the one that is being made."""
    wheel = Wheel(loop)
    whens = [loop.now + number * 0.0013 for number in range(500)]
    notes = [Note(loop) for _ in whens]
    for when, note in zip(whens, notes, strict=True):
        wheel.add(note, when)

    loop.pass_time(1)

    late = [note.called[0] - when for when, note in zip(whens, notes, strict=True)]
    assert min(late) >= 0
    assert max(late) <= 2 * TURN_S
    assert {len(note.called) for note in notes} == {1}


def test_what_is_overdue_is_done_in_the_next_turn(loop: ManualLoop) -> None:
    """A time whose turn was made already does not wait for ever."""
    wheel, later, overdue = Wheel(loop), Note(loop), Note(loop)
    wheel.add(later, loop.now + 1)
    loop.pass_time(0.5)
    wheel.add(overdue, loop.now - 0.3)

    loop.pass_time(2 * TURN_S)

    assert (len(overdue.called), len(later.called)) == (1, 0)


async def test_a_long_answer_is_made_as_it_is_read(sim: Start) -> None:
    """Forty million tokens to a client that does not read: a megabyte or two, not gigabytes."""
    client = await sim(tokens=40_000_000)

    async with client.connect() as wire:
        wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
        wire.send("POST", "/v1/chat/completions", body_of())
        await client.until(lambda stats: stats["generated"] > 0)
        looks = [(await client.sim("stats"))["generated"] for _ in range(50)]

    assert looks[-1] == looks[-2] < 100_000


@pytest.mark.slow
async def test_memory_does_not_grow_with_an_answer(sim: Start) -> None:
    """Four hundred thousand tokens go through, and the process grows by little."""
    client = await sim(tokens=400_000)
    await client.chat(headers={"x_sim_tokens": "10000"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async with client.connect() as wire:
        wire.send("POST", "/v1/chat/completions", body_of())
        tail = b""
        while b"data: [DONE]\n\n" not in tail:
            tail = tail[-20:] + await wire.reader.read(1 << 20)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
    assert (await client.sim("stats"))["generated"] == 410_000
