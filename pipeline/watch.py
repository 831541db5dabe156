"""Watchdogs: one look over all streams instead of a timer for every piece of text.

Keep-alive comments are not progress; only content is. While we ourselves do not read (backpressure,
a stalled database) the streams' clocks stand still.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tokenspool.errors import ErrorKind, StreamError

LOOK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a stream may be silent, in seconds; 0 is without limit. Connecting has its own."""

    first_byte_s: float = 600.0
    idle_s: float = 120.0
    total_s: float = 0.0


class Live:
    """One stream under watch; use it as a context manager around reading."""

    def __init__(self, watch: Watch) -> None:
        """Belong to the running asyncio task."""
        self._watch = watch
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - always made inside a coroutine
        self._task = task
        self._cancels = task.cancelling()
        self.started = self.moved = time.monotonic()
        self.has_text = False
        self.paused_at: float | None = None
        self._reason: BaseException | None = None

    def progress(self) -> None:
        """Say that content came."""
        self.moved = time.monotonic()
        self.has_text = True

    def pause(self) -> None:
        """Say that we stop reading."""
        self.paused_at = time.monotonic()

    def unpause(self) -> None:
        """Say that we read again; the pause does not count."""
        if self.paused_at is not None:
            paused = time.monotonic() - self.paused_at
            self.moved += paused
            self.started += paused
            self.paused_at = None

    def interrupt(self, reason: BaseException) -> None:
        """Make the stream's reading raise `reason`."""
        if self._reason is None:
            self._reason = reason
            self._task.cancel()

    def __enter__(self) -> Self:
        """Come under watch."""
        self._watch.streams.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the watch; an interruption becomes the exception that it stands for."""
        self._watch.streams.discard(self)
        if self._reason is None:
            return
        cancels = self._task.uncancel()
        if error is None:
            return
        if cancels > self._cancels:
            # Somebody wants the stream to end at the same moment; that counts more than why.
            raise asyncio.CancelledError from None
        raise self._reason from None


class Watch:
    """Looks over the streams of a process."""

    def __init__(self, timeouts: Timeouts) -> None:
        """Hold every stream to the same limits."""
        self._timeouts = timeouts
        self.streams: set[Live] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        t = self._timeouts
        shortest = min((s for s in (t.first_byte_s, t.idle_s, t.total_s) if s), default=LOOK_S)
        while True:
            await asyncio.sleep(min(LOOK_S, shortest / 4))
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Interrupt what has been silent too long."""
        for live in list(self.streams):
            if live.paused_at is None and (error := self._overdue(live, now)) is not None:
                live.interrupt(error)

    def _overdue(self, live: Live, now: float) -> StreamError | None:
        t = self._timeouts
        if t.total_s and now - live.started > t.total_s:
            return StreamError(
                ErrorKind.TOTAL_TIMEOUT, f"the answer took longer than {t.total_s:g} s"
            )
        if not live.has_text and t.first_byte_s and now - live.started > t.first_byte_s:
            return StreamError(
                ErrorKind.FIRST_BYTE_TIMEOUT, f"no text came within {t.first_byte_s:g} s"
            )
        if live.has_text and t.idle_s and now - live.moved > t.idle_s:
            return StreamError(ErrorKind.IDLE_TIMEOUT, f"no text came for {t.idle_s:g} s")
        return None
