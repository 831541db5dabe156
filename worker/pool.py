"""The pool: a bounded number of jobs at once, each from claim to published output."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from pipeline.parts import Parts, Site
from pipeline.runner import run_job
from tokenspool.errors import ErrorKind, TokenspoolError
from tokenspool.model import Completed, Failure, Job
from tokenspool.store import claims, publishing
from tokenspool.store.folding import Folding, fold_some
from tokenspool.store.prune import forget_some
from tokenspool.store.publishing import Published
from worker.gate import Gate
from worker.sites import Sites
from worker.sqlstore import SqlStore

T = TypeVar("T")
#: Finished jobs are marked and folded together, this many to a transaction.
TOGETHER = 200
#: Done jobs gather this long before they are marked: one fsync for all of them.
GATHER_S = 0.05


def most_publishing(slots: int) -> int:
    """Give how many whole answers may wait for their outputs; beyond it none is fetched."""
    return 2 * slots + TOGETHER


class Pool:
    """Runs claimed jobs. All of it lives on the event loop."""

    def __init__(
        self,
        parts: Parts,
        store: SqlStore,
        sites: Sites,
        *,
        slots: int,
        publishing_limit: int | None = None,
        leased: bool = False,
        keep: bool = True,
    ) -> None:
        """Begin empty; `publishing_limit` is what the open files allow, None for no limit.

        With `leased` nothing is claimed for a worker whose lease has run out. Without `keep` the
        journal forgets a text once its file is published.
        """
        self._parts = parts
        self._store = store
        self._sites = sites
        self.slots = slots
        self._keep = keep
        self._leased = leased
        most = most_publishing(slots)
        self._most_publishing = most if publishing_limit is None else min(most, publishing_limit)
        self.running: dict[tuple[int, int], asyncio.Task[Any]] = {}
        self._publishing: dict[tuple[int, int], asyncio.Task[Any]] = {}
        self._done: asyncio.Queue[Published] = asyncio.Queue()
        self._marking: asyncio.Task[None] | None = None
        #: Set whenever a slot falls free or something is published.
        self.changed = asyncio.Event()
        #: When a permit may be had that was refused, by `time.monotonic`.
        self.permit_at = math.inf
        self.failure: BaseException | None = None
        self.ended = 0

    @property
    def free(self) -> int:
        """Slots without a job; none while finished work piles up behind a stuck output."""
        if len(self._publishing) >= self._most_publishing:
            return 0
        return self.slots - len(self.running)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is running, being published or being marked."""
        return not (self.running or self._publishing or self._marking)

    @property
    def to_publish(self) -> int:
        """Jobs whose text is whole but not yet published."""
        return len(self._publishing)

    @property
    def owners(self) -> list[tuple[int, int]]:
        """The claims that are worked on: streams, and what is being published."""
        return [*self.running, *self._publishing]

    async def claim(self, worker: str, *, most: int | None = None) -> int:
        """Claim what fits and is permitted, at most so many if it is said, and start it.

        Gives how many. Every endpoint with work gets an equal share; what one leaves goes to the
        others: a million jobs of one model must not keep ten of another waiting.
        """
        hungry = [s for s in await self._sites.refresh() if s.endpoint.id not in self._sites.paused]
        random.shuffle(hungry)
        started, waits = 0, [math.inf]
        while hungry and (left := self._room(most, started)) > 0:
            share, full = math.ceil(left / len(hungry)), []
            for site in hungry:
                wanted = min(share, self._room(most, started), claims_at_once(self.slots))
                if wanted <= 0:
                    break
                claimed, wait_s = await self._claim_of(worker, site, wanted)
                started += claimed
                waits.append(wait_s)
                if claimed == wanted:
                    full.append(site)
            hungry = full
        self.permit_at = time.monotonic() + min(waits)
        return started

    @property
    def is_permit_due(self) -> bool:
        """Whether a job that had to wait for a permit may be claimed by now."""
        return time.monotonic() >= self.permit_at

    def _room(self, most: int | None, started: int) -> int:
        return self.free if most is None else min(self.free, most - started)

    async def _claim_of(self, worker: str, site: Site, wanted: int) -> tuple[int, float]:
        """Claim of one endpoint; give how many, and in how many seconds it permits more."""
        gate = self._sites.gate(site)
        permits = await self._sites.permits.take(gate, wanted)
        wait_s = math.inf if permits == wanted or gate.wait_s is None else gate.wait_s
        if permits <= 0:
            return 0, wait_s
        jobs: list[Job] = []
        try:
            jobs = await self._claim_ready(worker, site, permits)
        finally:
            gate.give(permits - len(jobs), unused=True)
        self._parts.fault("after_claim")
        for job in jobs:
            self._start(job, gate)
        return len(jobs), wait_s

    async def _claim_ready(self, worker: str, site: Site, permits: int) -> list[Job]:
        claim = partial(
            claims.claim_ready,
            worker=worker,
            endpoint_id=site.endpoint.id,
            limit=permits,
            leased=self._leased,
        )
        return await self._write(claim)

    async def claim_complete(self, worker: str) -> int:
        """Take up complete jobs that nobody owns, to publish them; give how many."""
        room = min(TOGETHER, self._most_publishing) - len(self._publishing)
        if room <= 0:
            return 0
        jobs = await self._write(
            partial(claims.claim_complete, worker=worker, limit=room, leased=self._leased)
        )
        for job in jobs:
            self._parts.delivery.open(job)
            self._publish(job)
        return len(jobs)

    def drain(self) -> None:
        """Ask every stream to commit what it has and give its job back."""
        for task in self.running.values():
            task.cancel()

    async def drained(self, timeout_s: float) -> bool:
        """Return when all have ended; False if the time ran out."""
        tasks = [*self.running.values(), *self._publishing.values()]
        if self._marking is not None:
            tasks.append(self._marking)
        if not tasks:
            return True
        _, pending = await asyncio.wait(tasks, timeout=timeout_s)
        return not pending

    def lose(self, owners: set[tuple[int, int]]) -> None:
        """Stop what works for lost claims: silent streams, and outputs that wait for a disk."""
        for owner in owners & self.running.keys():
            self._parts.journal.lose(owner)
        for owner in owners & self._publishing.keys():
            self._publishing[owner].cancel()

    def _start(self, job: Job, gate: Gate) -> None:
        task = self._spawn(self._run(job, self._sites.site(job.endpoint)))
        self.running[job.owner_key] = task
        task.add_done_callback(lambda _: self._left(job, gate))

    def _left(self, job: Job, gate: Gate) -> None:
        # Not in the task itself: one that is cancelled before it began runs nothing of it.
        self.running.pop(job.owner_key, None)
        gate.give(1)
        self.changed.set()

    async def _run(self, job: Job, site: Site) -> None:
        ending = await run_job(job, self._parts, site)
        if isinstance(ending, Completed):
            self._publish(job)
        elif ending is not None:
            self.ended += 1

    def _publish(self, job: Job) -> None:
        task = self._spawn(self._publish_one(job))
        self._publishing[job.owner_key] = task
        task.add_done_callback(partial(self._published, job))

    def _published(self, job: Job, task: asyncio.Task[Any]) -> None:
        # Not in the task itself, for the reason given in `_left`.
        self._publishing.pop(job.owner_key, None)
        if task.cancelled():
            self._parts.delivery.close(job)
        self.changed.set()

    async def _publish_one(self, job: Job) -> None:
        try:
            published = await self._parts.delivery.publish(job)
        except TokenspoolError as error:
            self._parts.delivery.close(job)
            failure = Failure(kind=ErrorKind.STORAGE, message=str(error)[:500])
            await self._write(partial(publishing.mark_failed, job=job, failure=failure))
            self.ended += 1
            return
        if published is None:
            # Lost to another claim; or somebody deleted the part, then it is claimed again.
            await self._write(partial(publishing.let_go, job=job))
        else:
            self._done.put_nowait(published)
            if self._marking is None:
                self._marking = self._spawn(self._mark())
        self.changed.set()

    async def _mark(self) -> None:
        """Mark published jobs as done and fold or forget their text, many to a transaction."""
        try:
            while not self._done.empty():
                await asyncio.sleep(GATHER_S)
                some = [self._done.get_nowait() for _ in range(min(TOGETHER, self._done.qsize()))]
                self._parts.fault("before_done")
                await self._write(partial(publishing.mark_done, published=some))
                self._parts.fault("after_done")
                self.ended += len(some)
                await (self._fold if self._keep else self._forget)([one.job for one in some])
        finally:
            self._marking = None
            self.changed.set()

    async def _fold(self, jobs: list[Job]) -> None:
        """Fold in bounded steps; a death between two steps loses nothing."""
        todo = [Folding(job_id=job.id) for job in jobs]
        while todo:
            todo = await self._write(partial(fold_some, todo=todo))
            self._parts.fault("after_fold")

    async def _forget(self, jobs: list[Job]) -> None:
        """Let the journal forget what is published, in bounded steps."""
        todo = [job.id for job in jobs]
        while todo:
            todo = await self._write(partial(forget_some, job_ids=todo))

    async def _write(self, operation: Callable[[sa.Connection], T]) -> T:
        return await self._parts.journal.call(lambda: self._store.write(operation))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Keep the first unforeseen error: it ends the run, with the reason."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = self.failure or error
            self.changed.set()


def claims_at_once(slots: int) -> int:
    """Give how many jobs one claim takes: a claim of 2,000 would make the beats wait."""
    return max(1, min(slots, 250))
