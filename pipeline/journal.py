"""The journal: one thread that makes true, beat by beat, what all streams have gathered.

Everything a process writes goes through this thread, one transaction at a time: beats first, and
between them claims, heartbeats, publishing and folding. While the database is away, full or locked,
the same beat is tried again; streams fill their room and stop reading, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import sqlalchemy as sa

from pipeline.ports import Clock, Fault, Store, no_fault
from pipeline.spooler import Spooler
from tokenspool.database import DatabaseError
from tokenspool.errors import ErrorKind, StreamError, Unavailable
from tokenspool.model import Entry

T = TypeVar("T")
#: A stream that holds this much is worth a commit before its beat.
KICK_BYTES = 16 * 1024
#: Waits between tries while the database is away, in seconds: it doubles up to the cap.
AWAY_S, AWAY_CAP_S = 0.1, 5.0

#: What a row can do to the driver. Anything else is not the row's doing, and no job fails for it.
_BAD_DATA = (sa.exc.StatementError, ValueError, OverflowError, TypeError)

Show = Callable[[Sequence[Entry]], None]


class Journal:
    """Group commit for all streams of a process."""

    def __init__(self, store: Store, clock: Clock, *, show: Show, fault: Fault = no_fault) -> None:
        """`show` is handed what a beat committed, to be shown on disk; it must not wait."""
        self._store = store
        self._clock = clock
        self._show = show
        self._fault = fault
        self._thread = _Thread()
        self._closed = False
        self._spoolers: dict[tuple[int, int], Spooler] = {}
        self._dirty: set[Spooler] = set()
        self._lock = asyncio.Lock()
        self._due = asyncio.Event()
        #: Why the last beat could not be committed; None when it was.
        self.trouble: str | None = None
        self.moved_at = time.monotonic()

    def attach(self, spooler: Spooler) -> None:
        """Let a stream take part in the beats."""
        self._spoolers[spooler.job.owner_key] = spooler
        if self._closed:
            spooler.close()

    def detach(self, spooler: Spooler) -> None:
        """Let a stream go; what it still holds is dropped."""
        self._spoolers.pop(spooler.job.owner_key, None)
        self._dirty.discard(spooler)
        spooler.drop()

    def touch(self, spooler: Spooler) -> None:
        """Say that a stream has something; a stream that holds much is not made to wait."""
        self._dirty.add(spooler)
        if spooler.pending >= KICK_BYTES:
            self._due.set()

    def lose(self, owner: tuple[int, int]) -> None:
        """Tell a stream that its claim is lost; a beat would find out only when text comes."""
        spooler = self._spoolers.get(owner)
        if spooler is not None and not spooler.in_flight:
            spooler.lose()

    async def settle(self, spooler: Spooler) -> None:
        """Return when all of a stream is durable; raises what stopped it."""
        self._dirty.add(spooler)
        await spooler.settled()

    async def call(self, operation: Callable[[], T]) -> T:
        """Run an operation on the journal's thread, again while the database says "not now"."""
        return await self._until_answered(self._thread, operation)

    async def read(self, operation: Callable[[], T]) -> T:
        """Run one that only reads beside the beats, again while the database says "not now"."""
        return await self._until_answered(None, operation)

    async def _until_answered(self, executor: Executor | None, operation: Callable[[], T]) -> T:
        wait = AWAY_S
        while True:
            try:
                result = await asyncio.get_running_loop().run_in_executor(executor, operation)
            except DatabaseError as error:
                wait = await self._away(error, wait)
            else:
                self.trouble = None
                self.moved_at = time.monotonic()
                return result

    async def run(self) -> None:
        """Beat until cancelled; raises Unavailable when the database will not come back."""
        try:
            await asyncio.gather(self._keep_time(), self._commit_when_due())
        finally:
            # Whoever waits for the next beat would wait for ever.
            self._closed = True
            for spooler in list(self._spoolers.values()):
                spooler.close()

    async def beat(self) -> None:
        """Commit what has gathered; return when it is durable and handed on."""
        async with self._lock:
            spoolers = [s for s in self._dirty if s.is_dirty]
            self._dirty.clear()
            if spoolers:
                by_owner = {s.job.owner_key: s for s in spoolers}
                await self._commit([s.cut() for s in spoolers], by_owner)
        self.moved_at = time.monotonic()

    def close(self) -> None:
        """End the thread once it is done; never waits for a database that does not answer."""
        self._thread.shutdown(wait=False)

    async def _keep_time(self) -> None:
        """Wake the readers beat by beat, also while a commit is under way."""
        while True:
            await self._clock.beat()
            self._due.set()

    async def _commit_when_due(self) -> None:
        """One commit at a time: what falls due meanwhile goes with the next, which is larger."""
        while True:
            await self._due.wait()
            self._due.clear()
            await self.beat()

    async def _commit(self, entries: list[Entry], by_owner: dict[tuple[int, int], Spooler]) -> None:
        wait, lost = AWAY_S, None
        while lost is None:
            try:
                lost = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._commit_now, entries
                )
            except DatabaseError as error:
                wait = await self._away(error, wait)
            except _BAD_DATA as error:
                await self._split(entries, by_owner, error)
                return
        self.trouble = None
        shown = []
        for entry in entries:
            spooler = by_owner[entry.job.owner_key]
            if entry.job.owner_key in lost:
                spooler.lose()
            else:
                shown.append(spooler.commit())
                # What arrived during the commit is still to be written.
                if spooler.is_dirty:
                    self._dirty.add(spooler)
        self._show(shown)

    def _commit_now(self, entries: list[Entry]) -> frozenset[tuple[int, int]]:
        self._fault("before_commit")
        begun = time.monotonic()
        lost = self._store.commit(entries)
        self._clock.committed(time.monotonic() - begun)
        self._fault("after_commit")
        return lost

    async def _split(
        self, entries: list[Entry], by_owner: dict[tuple[int, int], Spooler], error: Exception
    ) -> None:
        """Halve a group that the database refuses, until the bad stream stands alone."""
        if len(entries) == 1:
            entry = entries[0]
            reason = f"the database refuses this job's data: {type(error).__name__}"
            by_owner[entry.job.owner_key].refuse(StreamError(ErrorKind.STORAGE, reason))
            return
        middle = len(entries) // 2
        await self._commit(entries[:middle], by_owner)
        await self._commit(entries[middle:], by_owner)

    async def _away(self, error: DatabaseError, wait: float) -> float:
        """Wait for a database that may come back; raise for one that will not."""
        if not error.passing:
            raise Unavailable(str(error)) from error
        self.trouble = str(error)
        await asyncio.sleep(wait * random.uniform(0.75, 1.25))  # noqa: S311 - jitter, no secret
        return min(AWAY_CAP_S, 2 * wait)


class _Thread(Executor):
    """One thread and its queue; a daemon, so that a stuck database cannot keep a process alive."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._work, name="journal", daemon=True).start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # noqa: ANN401
        future: Future[T] = Future()
        self._queue.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        self._queue.put(None)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, operation = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(operation())
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                future.set_exception(error)
