"""One clock for all streams of a process: it beats, and every stream reads on one beat of its tick.

What a `kill -9` loses of a stream is what came since its last committed read: half a tick on
average, and the time from read to commit. So the sockets are not all read at once: a tick is a
whole number of beats, and each beat reads its share of the streams and commits it right away. With
1,000 streams and a tick of 0.15 s a share is 333, committed in a third of the time for all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

#: A beat is one commit with an fsync: 20 a second cost about 1 % of a core when idle.
BEAT_S = 0.05
#: Slow storage makes longer beats, never a queue.
MAX_BEAT_S = 0.5
MAX_TICK_S = 0.5
#: Streams that are read on one beat, at most, while the tick may still grow.
SHARE = 400
#: Share of the time that the loop works at which ticks grow, and below which they may shrink.
BUSY, CALM = 0.8, 0.65
STEER_S = 1.0
#: So much growth of the streams from one steering to the next is a start: making requests costs
#: more than reading answers, and is over before longer ticks would help.
STARTING = 1.1
#: Fewer of the beats than this came, in two intervals on end: the loop does not get the core it
#: needs. Its own CPU time does not show that. One interval alone may be a disk that held a commit.
ON_TIME = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """The settings of the clock; None lets it steer by load."""

    tick_s: float | None = None
    beat_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a steering interval showed."""

    #: Share of the time that the loop's thread was computing.
    busy: float
    #: Many beats came too late or not at all, for more than a moment.
    is_late: bool
    #: Streams that read in ticks, now and one interval before.
    readers: float
    before: float


def next_ticks(ticks: int, load: Load) -> int:
    """Decide how many beats a tick has: longer when the loop cannot keep up, shorter when it can.

    >>> next_ticks(4, Load(busy=0.9, is_late=False, readers=1000, before=1000))
    5
    >>> next_ticks(4, Load(busy=0.9, is_late=False, readers=1000, before=500))
    4
    >>> next_ticks(4, Load(busy=0.3, is_late=False, readers=1000, before=1000))
    3
    """
    if load.busy > BUSY or load.is_late:
        is_settled = 0 < load.readers <= STARTING * load.before
        return ticks + max(1, ticks // 4) if is_settled else ticks
    if load.busy < CALM and load.readers <= SHARE * (ticks - 1):
        return max(1, ticks - 1)
    return ticks


class Clock:
    """Fires beats and wakes the readers whose turn it is. Fulfils `ports.Pace`."""

    def __init__(
        self,
        rhythm: Rhythm | None = None,
        *,
        cpu: Callable[[], float] = time.thread_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Steer by the CPU time of the loop's thread unless the rhythm is fixed."""
        self._rhythm = rhythm or Rhythm()
        self._cpu = cpu
        self._now = now
        self.beat_s = self._rhythm.beat_s or BEAT_S
        self.ticks = self._fixed_ticks() or 1
        self._number = 0
        self._turns: dict[int, list[asyncio.Future[None]]] = {}
        self._next = now()
        self._steered_at, self._used = now(), cpu()
        #: Since the last steering: beats, and the readers there were at each, added up.
        self._beats = self._woken = 0
        self._readers = 0.0
        self._was_late = False
        #: From this beat on the readers are spread evenly over the tick.
        self._settled_at = 0
        #: While it holds no reader is woken: sockets stay as they are, paused and open.
        self.held: Callable[[], bool] = lambda: False

    @property
    def tick_s(self) -> float:
        """How long a stream sleeps between two reads."""
        return self.ticks * self.beat_s

    async def tick(self, key: int) -> None:
        """Return on the next beat that is this key's."""
        turn = self._number + 1 + (key - self._number - 1) % self.ticks
        future = asyncio.get_running_loop().create_future()
        self._turns.setdefault(turn, []).append(future)
        await future

    async def beat(self) -> None:
        """Sleep until the next beat, wake the readers of its turn, return when they have read."""
        # By the clock, not after the last one: reading and parsing must not stretch the tick.
        self._next = max(self._next + self.beat_s, self._now())
        await asyncio.sleep(self._next - self._now())
        self._number += 1
        woken = 0
        # A shrinking tick may leave turns behind; they are due as well.
        for turn in [t for t in self._turns if t <= self._number and not self.held()]:
            woken += self._wake(turn)
        self._woken += woken * self.ticks
        self._beats += 1
        if woken > SHARE and self._number >= self._settled_at:
            self._set(self.ticks + 1)
        await _let_read()
        self._steer()

    async def last_turn(self) -> None:
        """Let every reader read once more, out of turn; return when they have read.

        What a socket has gathered by the time of a drain is paid for, and would be asked for again.
        """
        if not self.held():
            for turn in list(self._turns):
                self._wake(turn)
            await _let_read()

    def committed(self, seconds: float) -> None:
        """Learn how long a commit took: a beat is at least as long. From any thread."""
        if self._rhythm.beat_s is None:
            wanted = min(max(BEAT_S, seconds), MAX_BEAT_S)
            # Slowly both ways: one commit that a checkpoint held up says little.
            self.beat_s += 0.2 * (wanted - self.beat_s)

    def _wake(self, turn: int) -> int:
        """Wake the readers of a turn; give how many."""
        waiting = [future for future in self._turns.pop(turn) if not future.done()]
        for future in waiting:
            future.set_result(None)
        return len(waiting)

    def _steer(self) -> None:
        elapsed = self._now() - self._steered_at
        if elapsed < STEER_S:
            return
        used = self._cpu()
        is_late = self._beats * self.beat_s < ON_TIME * elapsed
        load = Load(
            busy=(used - self._used) / elapsed,
            is_late=is_late and self._was_late,
            readers=self._woken / max(1, self._beats),
            before=self._readers,
        )
        self._steered_at += elapsed
        self._used, self._readers, self._was_late = used, load.readers, is_late
        self._beats = self._woken = 0
        if self._rhythm.tick_s is None:
            self._set(next_ticks(self.ticks, load))
        else:
            self.ticks = self._fixed_ticks()

    def _set(self, ticks: int) -> None:
        """Change the tick; until all readers are spread over a longer one, no crowd counts."""
        if self._rhythm.tick_s is not None:
            return
        if ticks > self.ticks:
            self._settled_at = self._number + 2 * ticks
        self.ticks = min(ticks, max(1, int(MAX_TICK_S / self.beat_s)))

    def _fixed_ticks(self) -> int:
        if self._rhythm.tick_s is None:
            return 0
        return max(1, round(self._rhythm.tick_s / self.beat_s))


async def _let_read() -> None:
    """Wake, resume the socket, poll, receive, parse: five rounds of the loop."""
    for _ in range(5):
        await asyncio.sleep(0)
