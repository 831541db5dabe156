"""A flow: one answer on its way to one client, at its pace and no faster than it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from simulator.counts import Record
from simulator.steps import Break, Comment, Cut, Piece, Raw, Send, Step, Steps, Wait
from simulator.wheel import Wheel

#: In burst this much is written at once, and then the next stream has its turn.
BATCH_BYTES = 65_536
#: What ends a body that is sent in pieces.
_LAST = b"0\r\n\r\n"


class Link(Protocol):
    """The connection that an answer goes to."""

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket."""
        ...

    def cut(self, how: Break) -> None:
        """Break the connection once all bytes have left."""
        ...

    def answered(self) -> None:
        """Learn that the answer is complete."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An answer that is to be delivered."""

    steps: Steps
    record: Record
    #: Is the body sent in pieces of its own length each?
    chunked: bool
    #: Is it an answer of the model, at its pace? Else it is one about the simulator.
    is_counted: bool = True


class Flow:
    """Takes the steps of one answer: at its pace, or as fast as it is read."""

    def __init__(
        self,
        delivery: Delivery,
        link: Link,
        *,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        rate: float,
        ended: Callable[[Record], None],
    ) -> None:
        self._steps = delivery.steps
        self._record = delivery.record
        self._chunked = delivery.chunked
        self._link = link
        self._loop = loop
        self._wheel = wheel
        self._ended = ended
        self._interval = 1 / rate if rate else 0.0
        self._due = loop.time()
        self._paused = self._parked = self._over = False

    def start(self) -> None:
        """Begin."""
        self._go_on()

    def pause(self) -> None:
        """Stop until `resume`: the client does not read."""
        self._paused = True

    def resume(self) -> None:
        """Go on; what could not be said meanwhile is not said any faster."""
        self._paused = False
        if self._parked:
            self._parked = False
            self._due = max(self._due, self._loop.time())
            self._go_on()

    def lose(self) -> None:
        """Learn that the client is gone."""
        if not self._over:
            if self._record.ended == "live":
                self._record.ended = "client"
            self._end()

    def step(self, now: float) -> None:
        """Take all steps that are due."""
        while self._due <= now and not self._over:
            if self._paused:
                self._parked = True
                return
            step = next(self._steps, None)
            if type(step) is bytes:
                # One event, one write: that is what a network brings of a real model.
                self._link.write(self._wrap(step))
                self._record.tokens += 1
                self._due += self._interval
            elif step is None:
                self._finish()
            elif not self._act(step):
                return
        if not self._over:
            self._wheel.add(self, self._due)

    def _pump(self) -> None:
        """Write one batch, then let others have a turn."""
        batch: list[bytes] = []
        size = 0
        while size < BATCH_BYTES and not self._over:
            if self._paused:
                self._parked = True
                return
            step = next(self._steps, None)
            if type(step) is bytes:
                batch.append(self._wrap(step))
                size += len(step)
                self._record.tokens += 1
                continue
            self._link.write(b"".join(batch))
            batch.clear()
            if step is None:
                self._finish()
            elif not self._act(step):
                return
        if not self._over:
            self._link.write(b"".join(batch))
            self._loop.call_soon(self._pump)

    def _go_on(self) -> None:
        if self._over:
            return
        if self._interval:
            self.step(self._loop.time())
        else:
            self._pump()

    def _act(self, step: Step) -> bool:
        """Take a step that is not just a token; False if the way goes on later."""
        match step:
            case Send():
                self._link.write(self._wrap(step.data))
                self._record.tokens += step.tokens
                self._due += step.tokens * self._interval
            case Raw():
                self._link.write(step.data)
            case Piece():
                self._link.write(self._wrap(step.data))
                self._record.tokens += step.tokens
                self._due += step.tokens * self._interval
                # The next turn of the loop: writes of one turn leave together.
                self._loop.call_soon(self._go_on)
                return False
            case Wait():
                self._due = self._loop.time() + step.seconds
                if not self._interval:
                    self._wheel.add(_Once(self._pump), self._due)
                    return False
            case Cut():
                self._record.ended = "cut"
                self._end()
                self._link.cut(step.how)
            case Comment() | bytes():
                raise AssertionError(step)
        return True

    def _wrap(self, data: bytes) -> bytes:
        if not self._chunked or not data:
            return data
        return b"%x\r\n%b\r\n" % (len(data), data)

    def _finish(self) -> None:
        if self._chunked:
            self._link.write(_LAST)
        self._end()
        self._link.answered()

    def _end(self) -> None:
        self._over = True
        self._steps.close()
        self._ended(self._record)


class _Once:
    """Something that the wheel calls once."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def step(self, now: float) -> None:
        del now
        self._call()
