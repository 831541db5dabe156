"""The clock: who reads on which beat, and how ticks and beats follow the load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from worker.clock import BEAT_S, BUSY, CALM, MAX_BEAT_S, MAX_TICK_S, SHARE, STEER_S, Clock, Rhythm

QUICK = 0.0001


def quick(ticks: int) -> Clock:
    """Make a clock of so many beats to a tick."""
    return Clock(Rhythm(tick_s=ticks * QUICK, beat_s=QUICK))


@dataclass
class Machine:
    """A computer whose time and whose processor's time are told."""

    at: float = 1000.0
    used: float = 0.0

    def clock(self, rhythm: Rhythm | None = None) -> Clock:
        """Make a clock on it."""
        return Clock(rhythm, cpu=lambda: self.used, now=lambda: self.at)

    async def go(
        self, clock: Clock, *, intervals: int = 1, busy: float = 0.0, on_time: float = 1.0
    ) -> None:
        """Let steering intervals pass at a load; beats may come late."""
        until = self.at + intervals * STEER_S
        while self.at < until:
            beat_s = clock.beat_s / on_time
            self.at += beat_s
            self.used += busy * beat_s
            clock._next = self.at - clock.beat_s
            await clock.beat()


@contextlib.contextmanager
def reading(clock: Clock, keys: Iterable[int]) -> Iterator[None]:
    """Let streams read on the clock's beats."""

    async def read(key: int) -> None:
        while True:
            await clock.tick(key)

    readers = [asyncio.ensure_future(read(key)) for key in keys]
    try:
        yield
    finally:
        for reader in readers:
            reader.cancel()


async def test_each_key_reads_once_a_tick_on_its_own_beat() -> None:
    """The streams are spread over the beats of a tick, so that each commit carries a share."""
    clock = quick(4)
    read: list[set[int]] = []

    async def reader(key: int) -> None:
        while True:
            await clock.tick(key)
            read[-1].add(key)

    readers = [asyncio.ensure_future(reader(key)) for key in range(8)]
    await asyncio.sleep(0)
    for _ in range(8):
        read.append(set())
        await clock.beat()

    assert read[:4] == read[4:]
    assert sorted(map(sorted, read[:4])) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    for one in readers:
        one.cancel()


async def test_what_a_reader_reads_is_there_before_the_beat_commits() -> None:
    """A beat returns only when the readers of its turn have had their rounds of the loop."""
    clock, arrived = quick(1), []

    async def read() -> None:
        await clock.tick(7)
        for _ in range(4):  # resume, poll, receive, parse
            await asyncio.sleep(0)
        arrived.append("text")

    reading = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    await clock.beat()

    assert arrived == ["text"]
    await reading


async def test_a_reader_that_was_cancelled_stops_nobody() -> None:
    """Its turn is passed over."""
    clock = quick(1)
    gone, there = (asyncio.ensure_future(clock.tick(key)) for key in (1, 2))
    await asyncio.sleep(0)

    gone.cancel()
    await clock.beat()

    await there
    assert gone.cancelled()


async def test_a_shrinking_tick_leaves_nobody_behind() -> None:
    """Turns that were given out for a longer tick come all the same."""
    clock = quick(5)
    late = asyncio.ensure_future(clock.tick(clock._number + 5))
    await asyncio.sleep(0)

    clock.ticks = 1
    for _ in range(5):
        await clock.beat()

    assert late.done()


@pytest.mark.parametrize(
    ("rhythm", "ticks", "tick_s"),
    [
        (Rhythm(), 1, BEAT_S),
        (Rhythm(beat_s=0.2), 1, 0.2),
        (Rhythm(tick_s=0.2), 4, 0.2),
        (Rhythm(tick_s=0.02), 1, BEAT_S),
        (Rhythm(tick_s=0.4, beat_s=0.1), 4, 0.4),
    ],
)
def test_a_tick_is_a_whole_number_of_beats(rhythm: Rhythm, ticks: int, tick_s: float) -> None:
    """Set values are kept as near as that allows."""
    clock = Clock(rhythm)

    assert clock.ticks == ticks
    assert clock.tick_s == pytest.approx(tick_s)


async def test_ticks_grow_while_the_process_is_busy_and_shrink_when_it_is_calm() -> None:
    """The tick is as short as the budget of processor time allows, and never over its bound."""
    machine = Machine()
    clock = machine.clock()

    with reading(clock, range(10)):
        await machine.go(clock, intervals=30, busy=0.9)
        longest = clock.tick_s
        await machine.go(clock, busy=(BUSY + CALM) / 2)
        between = clock.tick_s
        await machine.go(clock, intervals=30, busy=0.1)

    assert longest == between == pytest.approx(MAX_TICK_S)
    assert clock.ticks == 1


async def test_ticks_grow_until_a_beat_does_not_wake_too_many() -> None:
    """Each beat commits its share; they do not shrink to where it would be too large again."""
    machine = Machine()
    clock = machine.clock()

    with reading(clock, range(2 * SHARE + 100)):
        await machine.go(clock, intervals=3, busy=0.1)

    assert clock.ticks == 3


async def test_ticks_grow_while_beats_come_late() -> None:
    """A loop that waits for its core looks calm by its own time; it must not read more often."""
    machine = Machine()
    clock = machine.clock()

    with reading(clock, range(10)):
        await machine.go(clock, intervals=3, busy=0.4, on_time=0.5)

    assert clock.ticks == 3


async def test_one_late_interval_is_no_load() -> None:
    """A disk that holds one commit makes beats late for a moment; longer ticks would lose more."""
    machine = Machine()
    clock = machine.clock()

    with reading(clock, range(10)):
        await machine.go(clock, intervals=2, busy=0.7)
        for _ in range(3):
            await machine.go(clock, busy=0.7, on_time=0.5)
            await machine.go(clock, busy=0.7)

    assert clock.ticks == 1


async def test_a_process_that_is_busy_starting_streams_keeps_its_ticks() -> None:
    """What a start costs is over soon; longer ticks would lose text for seconds after it."""
    machine = Machine()
    clock = machine.clock()

    await machine.go(clock, intervals=2, busy=1.0)
    with reading(clock, range(100)):
        await machine.go(clock, busy=1.0)
        with reading(clock, range(100, 300)):
            await machine.go(clock, busy=1.0)
            started = clock.ticks
            await machine.go(clock, intervals=2, busy=1.0)

    assert started == 1
    assert clock.ticks > 1


async def test_fixed_values_are_not_steered() -> None:
    """What a person set stays."""
    machine = Machine()
    clock = machine.clock(Rhythm(tick_s=0.2, beat_s=0.1))

    clock.committed(3.0)
    await machine.go(clock, busy=0.9)

    assert (clock.ticks, clock.beat_s) == (2, 0.1)


async def test_a_fixed_tick_keeps_its_length_when_the_beat_grows() -> None:
    """Fewer, longer beats to the same tick."""
    machine = Machine()
    clock = machine.clock(Rhythm(tick_s=0.4))

    for _ in range(30):
        clock.committed(0.2)
    await machine.go(clock, busy=0.0)

    assert clock.ticks == 2
    assert clock.tick_s == pytest.approx(0.4, rel=0.01)


def test_a_beat_is_at_least_as_long_as_a_commit_within_its_bounds() -> None:
    """Slow storage makes longer beats, never a queue; one slow commit says little."""
    clock = Machine().clock()

    clock.committed(0.3)
    after_one = clock.beat_s
    for _ in range(50):
        clock.committed(100.0)
    longest = clock.beat_s
    for _ in range(50):
        clock.committed(0.0001)

    assert BEAT_S < after_one < 0.15
    assert longest == pytest.approx(MAX_BEAT_S, rel=0.01)
    assert clock.beat_s == pytest.approx(BEAT_S, rel=0.01)


async def test_beats_keep_to_the_clock_not_to_the_work_between_them() -> None:
    """Reading and parsing must not stretch the tick; but what was missed is not made up."""
    machine = Machine()
    clock = machine.clock(Rhythm(beat_s=0.001))
    machine.at += 0.0005  # half of the beat was spent on work
    await clock.beat()
    assert clock._next == pytest.approx(1000.001)

    machine.at += 60.0  # suspended
    await clock.beat()
    await clock.beat()

    assert clock._next == pytest.approx(machine.at + 0.001)


async def test_while_it_is_held_beats_come_and_nobody_reads() -> None:
    """A worker that may have lost its jobs reads nothing, and its journal still moves."""
    clock = quick(1)
    held = True
    clock.held = lambda: held
    reader = asyncio.ensure_future(clock.tick(0))
    for _ in range(3):
        await clock.beat()
    waited = not reader.done()

    held = False
    await clock.beat()

    assert waited
    assert reader.done()


async def test_before_a_drain_everybody_reads_once_more() -> None:
    """What a socket has gathered is paid for; it is read although its turn has not come."""
    clock, read = Clock(Rhythm(tick_s=0.5, beat_s=0.05)), []

    async def reader(key: int) -> None:
        await clock.tick(key)
        read.append(key)

    async with asyncio.TaskGroup() as group:
        for key in range(20):
            group.create_task(reader(key))
        await asyncio.sleep(0)

        await clock.last_turn()

        assert sorted(read) == list(range(20))


async def test_before_a_drain_without_a_lease_nobody_reads() -> None:
    """Others may read the answer anew by then."""
    clock = Clock(Rhythm(tick_s=0.5, beat_s=0.05))
    clock.held = lambda: True
    waiting = asyncio.ensure_future(clock.tick(1))
    await asyncio.sleep(0)

    await clock.last_turn()

    assert not waiting.done()
    waiting.cancel()
