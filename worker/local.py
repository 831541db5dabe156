"""The local runner: one process, no broker; works a SQLite database off until it is drained.

The caller holds the `RunnerLock`, so what its predecessor owned is free: it is reclaimed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

import tokenspool
from pipeline.ports import Fault, no_fault
from tokenspool import tables as t
from tokenspool.database import DatabaseError
from tokenspool.errors import TokenspoolError, Unavailable, UsageError
from tokenspool.model import JobState
from tokenspool.store import claims, counts, endpoints, workers
from worker.pool import GATHER_S, claims_at_once
from worker.wiring import Plant, Tuning, build_plant

T = TypeVar("T")
#: SIGTERM to exit, at most; 500 streams need one or two beats.
DRAIN_S = 4.5
#: The share of it for the worker's last row and for closing what is open.
LAST_S = 1.0
#: Heartbeats, lost claims, counts and endpoint states are written this often.
HEARTBEAT_S = 2.0
LOOK_S = 0.5
#: Objects made between two looks of the garbage collector; Python's own default is 700.
GC_OBJECTS = 20_000
UNKNOWN_MODEL, INTERRUPTED, OUT_OF_REACH = 2, 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the person is shown while it runs."""

    jobs: dict[str, int]
    streams: int
    tokens_per_s: float
    #: What it waits for, in words; empty when all is well.
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a local run is given; the database is opened, migrated and locked by the caller."""

    tuning: Tuning
    endpoint_patience_s: float = 600.0
    max_crashes: int = 10
    on_progress: Callable[[Progress], None] | None = None
    fault: Fault = no_fault


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How it ended."""

    #: 0 drained, 2 an unknown model, 3 interrupted, 4 an endpoint or the database out of reach.
    exit_code: int
    #: One sentence for a person when it did not drain.
    reason: str | None = None


@dataclass(slots=True)
class _Meter:
    """Tokens per second over the last few looks."""

    tokens: int = 0
    _marks: list[tuple[float, int]] = field(default_factory=list)

    def rate(self) -> float:
        now = time.monotonic()
        self._marks = [*self._marks[-10:], (now, self.tokens)]
        since, before = self._marks[0]
        elapsed = now - since
        return (self.tokens - before) / elapsed if elapsed > 0 else 0.0


class LocalRun:
    """One run, from reclaiming to the last published output."""

    def __init__(self, options: RunOptions) -> None:
        """Wire everything; nothing has been touched yet."""
        self._options = options
        self.worker = workers.new_worker_id()
        self._meter = _Meter()
        self._plant: Plant = build_plant(
            options.tuning, worker=self.worker, fault=options.fault, on_tokens=self._count
        )
        self._stop = asyncio.Event()
        self._wake = self._plant.pool.changed
        self._rate = 0.0

    def _count(self, tokens: int) -> None:
        self._meter.tokens += tokens

    def stop(self) -> None:
        """Drain; asked again, leave at once (as safe as a `kill -9`)."""
        if self._stop.is_set():
            os._exit(INTERRUPTED)
        self._stop.set()
        self._wake.set()

    async def run(self) -> RunResult:
        """Work until drained, interrupted, or out of reach of what it needs."""
        keepers: list[asyncio.Future[None]] = []
        try:
            return await self._until_stopped(self._begin_and_work(keepers))
        finally:
            # Past the deadline the database or a disk does not answer: what is committed is safe.
            until = time.monotonic() + DRAIN_S
            self._plant.pool.drain()
            await self._plant.pool.drained(DRAIN_S - LAST_S)
            await self._end(keepers, until=until)

    async def _until_stopped(self, work: Coroutine[Any, Any, RunResult]) -> RunResult:
        """Work until it ends or somebody stops it, also while the database is away."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.wait({working})
        return RunResult(exit_code=INTERRUPTED, reason="interrupted; run it again to go on")

    async def _begin_and_work(self, keepers: list[asyncio.Future[None]]) -> RunResult:
        await self._begin()
        plant = self._plant
        keepers += [
            asyncio.ensure_future(work)
            for work in (plant.journal.run(), plant.watch.run(), self._keep(), self._tell())
        ]
        for keeper in keepers:
            keeper.add_done_callback(lambda _: self._wake.set())
        return await self._work(keepers)

    # --- the loop ----------------------------------------------------------------------------
    async def _work(self, keepers: Sequence[asyncio.Future[None]]) -> RunResult:
        pool = self._plant.pool
        looked, plenty = 0.0, True
        while True:
            self._wake.clear()
            self._raise_failures(keepers)
            # Every job's end wakes us. Asking the database each time would cost more than the jobs:
            # between two looks we only claim, and only while the last claim found enough.
            look = pool.is_idle or time.monotonic() - looked >= LOOK_S
            started = due = 0
            if look:
                looked = time.monotonic()
                due = await self._write(claims.wake_due)
                started = await pool.claim_complete(self.worker)
            if look or plenty:
                wanted = pool.free
                claimed = await pool.claim(self.worker)
                plenty = claimed >= min(wanted, claims_at_once(pool.slots)) > 0
                started += claimed
            if look and not started and not due and pool.is_idle:
                ending = await self._ending()
                if ending is not None:
                    return ending
            if given_up := self._out_of_reach():
                return given_up
            if not (plenty and pool.free):
                # Not wait_for: in 3.11 it swallows a cancellation that comes with the wake-up.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
                # Jobs that were begun together end together: claim for all of them at once.
                await asyncio.sleep(GATHER_S)

    async def _ending(self) -> RunResult | None:
        """Tell, when nothing runs, whether all is done or refused; None when it only waits."""
        sites = await self._plant.sites.refresh()
        working = [s for s in sites if s.endpoint.id not in self._plant.sites.paused]
        if not working:
            return RunResult(exit_code=0)
        gates = [self._plant.sites.gate(site) for site in working]
        if all(gate.is_refused for gate in gates):
            reason = "; ".join(
                f"{site.endpoint.url} ({site.endpoint.model}): {gate.reason}"
                for site, gate in zip(working, gates, strict=True)
            )
            unknown = all(gate.is_unknown_model for gate in gates)
            code = UNKNOWN_MODEL if unknown else OUT_OF_REACH
            return RunResult(exit_code=code, reason=f"{reason}; no job was spent on it")
        return None

    def _out_of_reach(self) -> RunResult | None:
        """Give up when no endpoint has answered for as long as the person's patience lasts."""
        patience = self._options.endpoint_patience_s
        sites = self._plant.sites.working
        gates = [self._plant.sites.gate(site) for site in sites]
        down = [g for g in gates if g.down_since is not None or g.is_refused]
        if not down or len(down) < len(sites) or self._plant.pool.running:
            return None
        since = [g.down_since for g in down if g.down_since is not None]
        if not since or time.monotonic() - max(since) < patience:
            return None
        reason = (
            f"{sites[0].endpoint.url} could not be reached for {patience:g} s ({down[0].reason});"
            " all text so far is saved: run it again when it is back"
        )
        return RunResult(exit_code=OUT_OF_REACH, reason=reason)

    # --- beginning and end -------------------------------------------------------------------
    async def _begin(self) -> None:
        worker, slots = self.worker, self._plant.pool.slots

        def begin(connection: sa.Connection) -> None:
            claims.reclaim(connection, dead=None, max_crashes=self._options.max_crashes)
            workers.retire(connection)
            workers.register(connection, worker, version=tokenspool.__version__, slots=slots)

        await self._write(begin)

    async def _end(self, keepers: Sequence[asyncio.Future[None]], *, until: float) -> None:
        plant = self._plant
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        with contextlib.suppress(TimeoutError, TokenspoolError):
            async with asyncio.timeout(until - time.monotonic() - LAST_S / 2):
                await self._write(self._heartbeat_last)
        await plant.sites.close()
        plant.delivery.stop(max(0.0, until - time.monotonic()))
        plant.journal.close()

    def _heartbeat_last(self, connection: sa.Connection) -> None:
        # A claim that was under way when we stopped: its jobs go back as if it had not been.
        claims.reclaim(
            connection,
            dead=[self.worker],
            max_crashes=self._options.max_crashes,
            crashed=False,
        )
        self._save_gates(connection, force=True)
        workers.retire(connection, workers=[self.worker])

    # --- heartbeat ---------------------------------------------------------------------------
    async def _keep(self) -> None:
        """Renew the worker's row, and stop what works for claims that are lost."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            owners = self._plant.pool.owners
            self._plant.pool.lose(await self._write(partial(self._heartbeat, owners=owners)))

    async def _tell(self) -> None:
        """Tell the person how it goes, also while the database is away."""
        jobs: dict[str, int] = {}
        while True:
            await asyncio.sleep(LOOK_S)
            self._rate = self._meter.rate()
            if self._options.on_progress is None:
                continue
            with contextlib.suppress(DatabaseError):
                jobs = await asyncio.to_thread(self._plant.store.read, _job_counts)
            progress = Progress(
                jobs=jobs,
                streams=len(self._plant.pool.running),
                tokens_per_s=self._rate,
                waiting=tuple(self._waiting_for()),
            )
            # Whoever listened may have gone; the work goes on.
            with contextlib.suppress(OSError):
                self._options.on_progress(progress)

    def _heartbeat(
        self, connection: sa.Connection, *, owners: list[tuple[int, int]]
    ) -> set[tuple[int, int]]:
        load = workers.Load(
            state="draining" if self._stop.is_set() else "running",
            streams=len(owners),
            slots=self._plant.pool.slots,
            tokens_per_s=self._rate,
        )
        workers.heartbeat(connection, self.worker, load)
        self._save_gates(connection)
        counts.fold_counts(connection)
        return claims.lost(connection, owners)

    def _save_gates(self, connection: sa.Connection, *, force: bool = False) -> None:
        for site in self._plant.sites:
            gate = self._plant.sites.gate(site)
            if not (gate.changed or force):
                continue
            gate.changed = False
            state = gate.state
            endpoints.set_state(
                connection,
                site.endpoint.id,
                state=state.state,
                reason=state.reason,
                retry_in_s=state.retry_in_s,
                limit=state.limit,
            )

    def _waiting_for(self) -> Iterator[str]:
        plant = self._plant
        if plant.journal.trouble:
            yield plant.journal.trouble
        if plant.delivery.trouble:
            yield "the output refuses: " + next(iter(plant.delivery.trouble.values()))
        for site in plant.sites:
            gate = plant.sites.gate(site)
            if not gate.is_open:
                yield f"{site.endpoint.url} is {gate.state.state}: {gate.reason}"

    def _raise_failures(self, keepers: Sequence[asyncio.Future[None]]) -> None:
        for keeper in keepers:
            if keeper.done() and not keeper.cancelled() and (error := keeper.exception()):
                raise error
        if self._plant.pool.failure is not None:
            raise self._plant.pool.failure

    async def _write(self, operation: Callable[[sa.Connection], T]) -> T:
        return await self._plant.journal.call(lambda: self._plant.store.write(operation))


def _job_counts(connection: sa.Connection) -> dict[str, int]:
    c = t.job_count.c
    rows = connection.execute(
        sa.select(c.state, sa.func.sum(c.jobs)).where(c.state != "").group_by(c.state)
    )
    found = {state: int(jobs) for state, jobs in rows}
    return {state.value: found.get(state.value, 0) for state in JobState}


def run_local(options: RunOptions) -> RunResult:
    """Run on an event loop of its own, with signals handled; the command line's way in."""
    # What is loaded by now stays; looking through it again and again took a tenth of the CPU.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 10, 10)
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - it exists only where it can be built

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_run(options))


async def _run(options: RunOptions) -> RunResult:
    run = LocalRun(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, run.stop)
    try:
        return await run.run()
    except UsageError:
        raise
    except Unavailable as error:
        return RunResult(exit_code=OUT_OF_REACH, reason=str(error))
