"""The local runner: one process, no broker; works a SQLite database off until it is drained.

The caller holds the `RunnerLock`, so what its predecessor owned is free: it is reclaimed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

import tokenspool
from pipeline.ports import Fault, no_fault
from tokenspool import tables as t
from tokenspool.database import DatabaseError
from tokenspool.model import JobState
from tokenspool.store import claims, workers
from worker.process import (
    HEARTBEAT_S,
    INTERRUPTED,
    OUT_OF_REACH,
    Process,
    RunResult,
    run_on_loop,
)
from worker.wiring import Tuning

LOOK_S = 0.5
UNKNOWN_MODEL = 2


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


class LocalRun:
    """One run, from reclaiming to the last published output."""

    def __init__(self, options: RunOptions) -> None:
        """Wire everything; nothing has been touched yet."""
        self._options = options
        self.worker = workers.new_worker_id()
        self._process = Process(options.tuning, worker=self.worker, fault=options.fault)
        self._plant = self._process.plant
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Drain; asked again, leave at once (as safe as a `kill -9`)."""
        if self._stop.is_set():
            os._exit(INTERRUPTED)
        self._stop.set()
        self._process.wake.set()

    async def run(self) -> RunResult:
        """Work until drained, interrupted, or out of reach of what it needs."""
        stopped = RunResult(exit_code=INTERRUPTED, reason="interrupted; run it again to go on")
        try:
            work = self._begin_and_work()
            return await self._process.until(self._stop, work, stopped=stopped)
        finally:
            await self._process.drain()
            await self._process.close(lambda: self.worker, max_crashes=self._options.max_crashes)

    async def _begin_and_work(self) -> RunResult:
        await self._begin()
        self._process.begin(self._keep(), self._tell())
        return await self._work()

    # --- the loop ----------------------------------------------------------------------------
    async def _work(self) -> RunResult:
        process, pool = self._process, self._plant.pool
        looked = 0.0
        while True:
            process.wake.clear()
            process.raise_failures()
            look = pool.is_idle or time.monotonic() - looked >= LOOK_S
            if look:
                looked = time.monotonic()
            found = await process.take(self.worker, look=look)
            if look and not found and pool.is_idle:
                ending = await self._ending()
                if ending is not None:
                    return ending
            if given_up := self._out_of_reach():
                return given_up
            await process.nap(LOOK_S)

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

    # --- beside it ---------------------------------------------------------------------------
    async def _begin(self) -> None:
        worker, slots = self.worker, self._plant.pool.slots

        def begin(connection: sa.Connection) -> None:
            claims.reclaim(connection, dead=None, max_crashes=self._options.max_crashes)
            workers.retire(connection)
            workers.register(connection, worker, version=tokenspool.__version__, slots=slots)

        await self._process.write(begin)

    async def _keep(self) -> None:
        """Renew the worker's row, and stop what works for claims that are lost."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            state = "draining" if self._stop.is_set() else "running"
            await self._process.heartbeat(self.worker, state=state, lease_s=workers.LEASE_S)

    async def _tell(self) -> None:
        """Tell the person how it goes, also while the database is away."""
        jobs: dict[str, int] = {}
        while True:
            await asyncio.sleep(LOOK_S)
            rate = self._process.look_at_speed()
            if self._options.on_progress is None:
                continue
            with contextlib.suppress(DatabaseError):
                jobs = await asyncio.to_thread(self._plant.store.read, _job_counts)
            progress = Progress(
                jobs=jobs,
                streams=len(self._plant.pool.running),
                tokens_per_s=rate,
                waiting=tuple(self._process.waiting_for()),
            )
            # Whoever listened may have gone; the work goes on.
            with contextlib.suppress(OSError):
                self._options.on_progress(progress)


def _job_counts(connection: sa.Connection) -> dict[str, int]:
    c = t.job_count.c
    rows = connection.execute(
        sa.select(c.state, sa.func.sum(c.jobs)).where(c.state != "").group_by(c.state)
    )
    found = {state: int(jobs) for state, jobs in rows}
    return {state.value: found.get(state.value, 0) for state in JobState}


def run_local(options: RunOptions) -> RunResult:
    """Work the database off; the command line's way in."""
    return run_on_loop(lambda: LocalRun(options))
