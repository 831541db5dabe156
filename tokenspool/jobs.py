"""One job as a program sees it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenspool.database import Database
from tokenspool.errors import ErrorKind, TokenspoolError, Unavailable
from tokenspool.following import Follower, Piece
from tokenspool.model import JobState
from tokenspool.roots import is_url
from tokenspool.store import lookup
from tokenspool.store.intake.turns import reading
from tokenspool.store.lookup import JobLine

#: How often a follower looks: about what a beat takes, and a thousandth of a core.
LOOK_S = 0.2


class JobNotDoneError(TokenspoolError):
    """The job has no proven end: what there is of its text is not the whole answer."""

    def __init__(self, job: JobView) -> None:
        """Keep the job as it was found; its `state` and `error` say why."""
        because = f" ({job.error}: {job.message})" if job.error else ""
        super().__init__(f"job {job.custom_id!r} of batch {job.batch!r} is {job.state}{because}")
        self.job = job


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as it was when it was looked up; `refresh` looks again.

    >>> for piece in batch.job("intro").follow():  # doctest: +SKIP
    ...     print(piece.text, end="", flush=True)
    """

    line: JobLine
    database: Database = field(repr=False, compare=False)

    @property
    def id(self) -> int:
        """Its number in the database."""
        return self.line.id

    @property
    def custom_id(self) -> str:
        """Its name in the batch."""
        return self.line.custom_id

    @property
    def batch(self) -> str:
        """The batch's name."""
        return self.line.batch

    @property
    def state(self) -> JobState:
        """Where it stood."""
        return self.line.state

    @property
    def finish(self) -> str | None:
        """The finish reason that proved the end; `length`: the budget was spent."""
        return self.line.finish

    @property
    def error(self) -> ErrorKind | None:
        """What it failed of."""
        return self.line.error

    @property
    def message(self) -> str:
        """What was said about the error."""
        return self.line.message

    def refresh(self) -> JobView:
        """Give the job as it is now."""
        line = reading(self.database, lambda c: lookup.job_line(c, self.id))
        return JobView(line=line, database=self.database)

    def text(self, *, partial: bool = False) -> str:
        """Give the text of a job whose end is proven; with `partial` what there is of any job.

        Raises `JobNotDoneError`, or `Unavailable` when the journal's text was pruned and the
        published file is not here.
        """
        follower, pieces = self._follower(0, None), list[str]()
        while follower.has_more:
            if piece := follower.step():
                if piece.reset:
                    pieces.clear()
                pieces.append(piece.text)
        job = self.refresh()
        if not follower.is_whole and not partial:
            raise JobNotDoneError(job)
        if job.state is JobState.DONE and follower.end_byte < job.line.bytes:
            return job._published().decode(errors="replace")  # noqa: SLF001 - it is one of us
        return "".join(pieces)

    def follow(
        self,
        from_byte: int = 0,
        *,
        edition: int | None = None,
        timeout_s: float | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> Iterator[Piece]:
        """Yield the text from a byte on as it grows; end when its end is proven and all is given.

        To go on after a lost connection, hand in the `end_byte` and `edition` of the last piece. A
        piece with `reset` says that the text began anew. Raises `JobNotDoneError` when the job has
        failed or was cancelled, after all its text; `TimeoutError` when for `timeout_s` seconds
        nothing came; `Unavailable` when the journal's text was pruned: `text` reads the file.
        """
        follower = self._follower(from_byte, edition)
        heard = time.monotonic()
        while True:
            if piece := follower.step():
                yield piece
                heard = time.monotonic()
            if follower.is_over:
                self._end(follower)
                return
            if not follower.has_more:
                self._check_patience(heard, timeout_s)
                pause(LOOK_S)

    async def afollow(
        self, from_byte: int = 0, *, edition: int | None = None, timeout_s: float | None = None
    ) -> AsyncIterator[Piece]:
        """Do what `follow` does, without holding up the event loop."""
        follower = await asyncio.to_thread(self._follower, from_byte, edition)
        heard = time.monotonic()
        while True:
            if piece := await asyncio.to_thread(follower.step):
                yield piece
                heard = time.monotonic()
            if follower.is_over:
                await asyncio.to_thread(self._end, follower)
                return
            if not follower.has_more:
                self._check_patience(heard, timeout_s)
                await asyncio.sleep(LOOK_S)

    def _follower(self, from_byte: int, edition: int | None) -> Follower:
        return Follower(self.database, self.id, from_byte=from_byte, edition=edition)

    def _check_patience(self, heard: float, timeout_s: float | None) -> None:
        if timeout_s is not None and time.monotonic() - heard >= timeout_s:
            msg = f"job {self.custom_id!r}: no new text for {timeout_s:g} s"
            raise TimeoutError(msg)

    def _end(self, follower: Follower) -> None:
        """Raise unless the end is proven and all text was given."""
        job = self.refresh()
        if not follower.is_whole:
            raise JobNotDoneError(job)
        if job.state is JobState.DONE and follower.end_byte < job.line.bytes:
            way = "read it there" if is_url(job.line.root) else "text() reads it from there"
            raise Unavailable(job._pruned(way))  # noqa: SLF001 - see above

    def _published(self) -> bytes:
        """Give the published file, if it is what was published."""
        detail = reading(self.database, lambda c: lookup.show(c, self.id))
        if is_url(self.line.root):
            raise Unavailable(self._pruned("read it there; `tokenspool export` does"))
        try:
            data = Path(self._place()).read_bytes()
        except OSError as error:
            reason = f"which cannot be read here: {error.strerror}"
            raise Unavailable(self._pruned(reason)) from error
        if hashlib.sha256(data).digest() != detail.sha256:
            raise Unavailable(self._pruned("which is not what was published any more"))
        return data

    def _pruned(self, more: str) -> str:
        job = f"job {self.custom_id!r} of batch {self.batch!r}"
        return f"the journal's text of {job} was pruned; it is in {self._place()}: {more}"

    def _place(self) -> str:
        return f"{self.line.root.rstrip('/')}/{self.line.name}"
