"""The wheel: one timer for all paced streams, in turns of five milliseconds."""

from __future__ import annotations

import asyncio
from typing import Protocol

#: A timer per stream would cost more than what the streams send: 1,000 streams share 200 turns a
#: second. Five milliseconds are well below the time between two tokens of any model.
TURN_S = 0.005


class Due(Protocol):
    """Something that is due at a time."""

    def step(self, now: float) -> None:
        """Do what is due."""
        ...


class Wheel:
    """Calls what is due, at the loop's time or up to one turn later."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turns: dict[int, list[Due]] = {}
        #: The first turn that was not made yet.
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, due: Due, when: float) -> None:
        """Call `due.step` at that time."""
        turn = int(when / TURN_S) + 1
        if self._timer is None:
            self._next = int(self._loop.time() / TURN_S)
            self._arm(self._next + 1)
        # A turn that was made already does not come again.
        self._turns.setdefault(max(turn, self._next), []).append(due)

    def stop(self) -> None:
        """Call nothing any more."""
        self._turns.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, turn: int) -> None:
        self._timer = self._loop.call_at(turn * TURN_S, self._turn)

    def _turn(self) -> None:
        now = self._loop.time()
        last = int(now / TURN_S)
        while self._next <= last:
            turn = self._turns.pop(self._next, None)
            self._next += 1
            for due in turn or ():
                due.step(now)
        if self._turns:
            self._arm(last + 1)
        else:
            self._timer = None
