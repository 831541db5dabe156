"""One worker of a fleet: many such processes work off one PostgreSQL, each asking it for work.

It never ends by itself. No message is needed: whatever wakes it early is a hint.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.ports import Fault, no_fault
from pipeline.watch import Live
from tokenspool import migrate
from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.store import workers
from worker.demands import Demands
from worker.lease import Lease, Terms, end_silent_transactions, lease_database
from worker.patience import Patience
from worker.process import DRAIN_S, HEARTBEAT_S, INTERRUPTED, Process, RunResult, run_on_loop
from worker.wiring import Tuning

#: An idle worker asks for work this often, in seconds: slower while there is none. The jitter keeps
#: a hundred workers from asking in the same moment.
POLL_S, POLL_CAP_S, JITTER = 0.5, 2.0, 0.25
#: The loop shows that it moves.
TICK_S = 0.5
#: An endpoint that refused us is asked again: keys are renewed, models are loaded.
REFUSED_S = 60.0
#: Part of a lease after which a transaction of ours that stands still is ended, with its locks.
SILENT = 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """What a worker is given; the database is opened and migrated by the caller."""

    tuning: Tuning
    max_crashes: int = 10
    #: How long others wait for a sign of life; all workers of a fleet should have the same.
    lease_s: float = workers.LEASE_S
    #: Told what it waits for, in words, whenever that changes; empty when all is well.
    on_waiting: Callable[[tuple[str, ...]], None] | None = None
    #: Called once, with the worker's drain, which may be asked for from any thread.
    on_start: Callable[[Callable[[], None]], None] | None = None
    #: What hints ask for; None where there is no broker.
    demands: Demands | None = None
    #: Called on the loop, with a broker, when a slot is free and there may be too few hints.
    on_free: Callable[[], None] = lambda: None
    fault: Fault = no_fault


class FleetWorker:
    """One worker, from its registration to its sign-off."""

    def __init__(self, options: FleetOptions) -> None:
        """Wire everything; nothing has been touched yet. Raises UsageError for SQLite."""
        database = options.tuning.database
        _refuse_sqlite(database)
        end_silent_transactions(database, SILENT * options.lease_s)
        self._options = options
        self._lease_database = lease_database(database)
        terms = Terms(
            slots=options.tuning.streams,
            max_crashes=options.max_crashes,
            lease_s=options.lease_s,
        )
        self._lease = Lease(
            self._lease_database,
            terms,
            still_for=self._still_for,
            on_taken=lambda: _call_soon(self._loop, self._look_soon),
        )
        self._process = Process(
            options.tuning, worker=self._lease.worker, fault=options.fault, leased=True
        )
        self._process.plant.clock.held = lambda: self._lease.has_run_out
        self._loop_moved_at = time.monotonic()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        #: Jobs were taken from the dead: the database is asked without waiting for the next poll.
        self._is_due = False
        self._signalled = False
        self._paused: list[Live] = []
        self._patience = Patience()
        #: The claims that ran after the last take: whoever is missing has left its slot.
        self._ran: set[tuple[int, int]] = set()

    def stop(self) -> None:
        """Drain; asked again by a signal, leave at once (as safe as a `kill -9`)."""
        if self._signalled:
            os._exit(INTERRUPTED)
        self._signalled = True
        self.drain()

    def drain(self) -> None:
        """Stop claiming, commit what there is, give the jobs back and end; once."""
        self._stop.set()
        self._process.wake.set()
        if self._options.demands is not None:
            self._options.demands.close()

    async def run(self) -> RunResult:
        """Work until stopped, or until the database is out of reach for good."""
        process, lease = self._process, self._lease
        self._loop = loop = asyncio.get_running_loop()
        if self._options.on_start is not None:
            self._options.on_start(lambda: _call_soon(loop, self.drain))
        process.begin(self._tick(), self._keep())
        try:
            return await process.until(self._stop, self._work(), stopped=RunResult(exit_code=0))
        finally:
            # Draining takes less than what is left of any lease.
            await asyncio.gather(process.drain(), asyncio.to_thread(lease.stop, DRAIN_S))
            await process.close(lambda: lease.worker, max_crashes=self._options.max_crashes)
            self._lease_database.close()

    # --- the loop ----------------------------------------------------------------------------
    async def _work(self) -> RunResult:
        process, pool, lease = self._process, self._process.plant.pool, self._lease
        await process.write(lease.take)
        # Before the first claim: should the limits of all not be known then, we take our share.
        await process.count_workers()
        lease.start()
        if self._options.demands is not None:
            loop, wake = asyncio.get_running_loop(), process.wake.set
            self._options.demands.listen(lambda: _call_soon(loop, wake))
        looked, poll = 0.0, 0.0
        while True:
            process.wake.clear()
            process.raise_failures()
            if lease.failure is not None:
                raise lease.failure
            look = self._is_due or time.monotonic() - looked >= poll
            self._is_due = False
            found = await self._take(look=look)
            if look:
                looked = time.monotonic()
                slower = POLL_S if found or not pool.is_idle else min(1.5 * poll, POLL_CAP_S)
                poll = max(POLL_S, slower) * random.uniform(1 - JITTER, 1)  # noqa: S311 - no secret
            await process.nap(max(0.0, looked + poll - time.monotonic()))

    async def _take(self, *, look: bool) -> int:
        """Claim for the demands that wait; of our own accord too where no hints come."""
        demands, pool = self._options.demands, self._process.plant.pool
        if demands is None:
            return await self._process.take(self._lease.worker, look=look)
        if look:
            working = pool.free > 0 and await self._process.plant.sites.refresh()
            if self._patience.saw(work=pool.free == 0 or bool(working), free=pool.free > 0):
                self._options.on_free()
        before = set(pool.running)
        taken = demands.take(pool.free)
        if taken:
            self._patience.met()
        # What had no permit when its hint came is not hinted at again for a while.
        alone = not taken and (self._patience.is_over or pool.is_permit_due)
        claimed: dict[int, asyncio.Task[object]] = {}
        try:
            most = None if alone else len(taken)
            found = await self._process.take(self._lease.worker, look=look, most=most)
            claimed = {key[0]: task for key, task in pool.running.items() if key not in before}
        finally:
            demands.meet(taken, claimed)
        if self._ran - before and pool.free > 0:
            self._options.on_free()
        self._ran = set(pool.running)
        return found

    # --- beside it ---------------------------------------------------------------------------
    def _look_soon(self) -> None:
        """Claim what was just taken from the dead; with a broker, have hints sent for it."""
        self._is_due = True
        self._process.wake.set()
        self._options.on_free()

    def _still_for(self) -> float:
        """Tell for how many seconds loop or journal have not moved; from any thread."""
        moved_at = min(self._loop_moved_at, self._process.plant.journal.moved_at)
        return time.monotonic() - moved_at

    async def _tick(self) -> None:
        """Show that the loop moves; while nobody may read, no stream is silent by its own fault."""
        told: tuple[str, ...] = ()
        while True:
            self._loop_moved_at = time.monotonic()
            self._process.look_at_speed()
            self._watch_streams()
            waiting = tuple(self._process.waiting_for())
            if waiting != told and self._options.on_waiting is not None:
                self._options.on_waiting(waiting)
            told = waiting
            await asyncio.sleep(TICK_S)

    def _watch_streams(self) -> None:
        if self._lease.has_run_out:
            fresh = [s for s in self._process.plant.watch.streams if s.paused_at is None]
            for stream in fresh:
                stream.pause()
            self._paused += fresh
            return
        for stream in self._paused:
            stream.unpause()
        self._paused = []

    async def _keep(self) -> None:
        """Show the worker's load, stop what works for lost claims, ask refused endpoints again."""
        asked = time.monotonic()
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            state = "draining" if self._stop.is_set() else "running"
            await self._process.heartbeat(self._lease.worker, state=state, lease_s=None)
            if time.monotonic() - asked >= REFUSED_S:
                asked = time.monotonic()
                for site in self._process.plant.sites:
                    self._process.plant.sites.gate(site).reopen()


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call on the loop from another thread; a loop that has ended needs no call."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


def shared(database: Database) -> Database:
    """Give a database that workers can share. Raises UsageError or Unavailable with the remedy."""
    _refuse_sqlite(database)
    migrate.ensure(database)
    return database


def _refuse_sqlite(database: Database) -> None:
    if database.kind != "postgresql":
        msg = (
            "workers share a PostgreSQL (--db postgresql://…); a SQLite file is worked off by"
            " `tokenspool run -o DIR`"
        )
        raise UsageError(msg)


def work_in_fleet(options: FleetOptions) -> RunResult:
    """Work until stopped; the command line's way in."""
    return run_on_loop(lambda: FleetWorker(options))
