"""What every working process has, in a fleet or alone: a plant, its keepers, its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from pipeline.ports import Fault
from tokenspool.errors import TokenspoolError, Unavailable, UsageError
from tokenspool.store import claims, counts, endpoints, workers
from worker.gate import GateState
from worker.pool import GATHER_S, claims_at_once
from worker.wiring import Plant, Tuning, build_plant

T = TypeVar("T")
#: SIGTERM to exit, at most; 500 streams need one or two beats.
DRAIN_S = 4.5
#: The share of it for the worker's last row and for closing what is open.
LAST_S = 1.0
#: Load, lost claims, counts and endpoint states are looked after this often: a cancelled job that
#: is silent is stopped within two seconds.
HEARTBEAT_S = 1.5
#: Objects made between two looks of the garbage collector; Python's own default is 700.
GC_OBJECTS = 20_000
INTERRUPTED, OUT_OF_REACH = 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How it ended."""

    #: 0 drained or, of a fleet's worker, stopped; 2 an unknown model; 3 interrupted; 4 an endpoint
    #: or the database out of reach.
    exit_code: int
    #: One sentence for a person when all is not well.
    reason: str | None = None


@dataclass(slots=True)
class Meter:
    """Tokens per second over the last few looks."""

    tokens: int = 0
    _marks: list[tuple[float, int]] = field(default_factory=list)

    def count(self, tokens: int) -> None:
        """Add what was committed."""
        self.tokens += tokens

    def rate(self) -> float:
        """Look, and give the speed."""
        now = time.monotonic()
        self._marks = [*self._marks[-10:], (now, self.tokens)]
        since, before = self._marks[0]
        elapsed = now - since
        return (self.tokens - before) / elapsed if elapsed > 0 else 0.0


class Process:
    """A wired process: claims, keeps what must be kept, and ends in order."""

    def __init__(self, tuning: Tuning, *, worker: str, fault: Fault, leased: bool = False) -> None:
        """Wire everything; nothing has been touched yet."""
        self._meter = Meter()
        self.plant: Plant = build_plant(
            tuning, worker=worker, fault=fault, on_tokens=self._meter.count, leased=leased
        )
        self.wake = self.plant.pool.changed
        self.rate = 0.0
        self._plenty = True
        self._keepers: list[asyncio.Future[None]] = []
        self._until = 0.0

    def begin(self, *work: Coroutine[Any, Any, None]) -> None:
        """Start the journal, the watch and what else has to go on beside the work."""
        plant = self.plant
        own = (plant.journal.run(), plant.watch.run(), plant.sites.permits.run())
        self._keepers = [asyncio.ensure_future(one) for one in (*own, *work)]
        for keeper in self._keepers:
            keeper.add_done_callback(lambda _: self.wake.set())

    def raise_failures(self) -> None:
        """Raise what ended a keeper or a job in a way that nobody foresaw."""
        for keeper in self._keepers:
            if keeper.done() and not keeper.cancelled() and (error := keeper.exception()):
                raise error
        if self.plant.pool.failure is not None:
            raise self.plant.pool.failure

    async def until(
        self, stop: asyncio.Event, work: Coroutine[Any, Any, RunResult], *, stopped: RunResult
    ) -> RunResult:
        """Work until it ends or somebody stops it, also while the database is away."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.wait({working})
        return stopped

    # --- the loop ----------------------------------------------------------------------------
    async def take(self, worker: str, *, look: bool, most: int | None = None) -> int:
        """Claim what fits; with `look` also wake what is due; give how much there was to do.

        Every job's end wakes us. Asking the database each time would cost more than the jobs:
        between two looks we only claim, and only while the last claim found enough. With `most`
        somebody else knows when there is work: so many are claimed, and none of our own accord.
        """
        pool, found = self.plant.pool, 0
        if look:
            found += await self.write(claims.wake_due)
            found += await pool.claim_complete(worker)
        if most is not None:
            self._plenty = False
            found += await pool.claim(worker, most=most) if most > 0 else 0
        elif look or self._plenty or pool.is_permit_due:
            wanted = pool.free
            claimed = await pool.claim(worker)
            if wanted > 0:
                self._plenty = claimed >= min(wanted, claims_at_once(pool.slots))
            found += claimed
        return found

    async def nap(self, seconds: float) -> None:
        """Wait until something changes or is permitted, if there is nothing to claim at once."""
        if self._plenty and self.plant.pool.free > 0:
            return
        # Not wait_for: in 3.11 it swallows a cancellation that comes with the wake-up.
        with contextlib.suppress(TimeoutError):
            until_permit = max(0.0, self.plant.pool.permit_at - time.monotonic())
            async with asyncio.timeout(min(seconds, until_permit)):
                await self.wake.wait()
        # Jobs that were begun together end together: claim for all of them at once.
        await asyncio.sleep(GATHER_S)

    def look_at_speed(self) -> float:
        """Give the tokens per second just now."""
        self.rate = self._meter.rate()
        return self.rate

    def waiting_for(self) -> Iterator[str]:
        """Say what it waits for, in words."""
        plant = self.plant
        if plant.journal.trouble:
            yield plant.journal.trouble
        if plant.delivery.trouble:
            yield "the output refuses: " + next(iter(plant.delivery.trouble.values()))
        for site in plant.sites:
            gate = plant.sites.gate(site)
            if not gate.is_open:
                yield f"{site.endpoint.url} is {gate.state.state}: {gate.reason}"

    # --- what is kept in the database --------------------------------------------------------
    async def write(self, operation: Callable[[sa.Connection], T]) -> T:
        """Run an operation on the journal's thread, in one transaction."""
        return await self.plant.journal.call(lambda: self.plant.store.write(operation))

    async def count_workers(self) -> None:
        """Learn among how many workers limits are shared while nothing else keeps them together."""
        living = await self.write(workers.count_living)
        self.plant.sites.permits.workers = max(1, living)

    async def heartbeat(self, worker: str, *, state: str, lease_s: float | None) -> None:
        """Write how the worker stands, and stop what works for claims that are lost."""
        owners = self.plant.pool.owners
        load = workers.Load(
            state=state, streams=len(owners), slots=self.plant.pool.slots, tokens_per_s=self.rate
        )

        states = self._gate_states()

        def beat(connection: sa.Connection) -> tuple[set[tuple[int, int]], int]:
            workers.heartbeat(connection, worker, load, lease_s=lease_s)
            counts.fold_counts(connection)
            lost = claims.lost(connection, owners), workers.count_living(connection)
            # Last: all workers write these few rows, and each waits until the other has committed.
            _save_gates(connection, states)
            return lost

        lost, living = await self.write(beat)
        self.plant.pool.lose(lost)
        self.plant.sites.permits.workers = max(1, living)

    def _gate_states(self, *, force: bool = False) -> dict[int, GateState]:
        """Give by endpoint how those gates stand that have changed since they were asked last."""
        states = {}
        for site in self.plant.sites:
            gate = self.plant.sites.gate(site)
            if gate.changed or force:
                gate.changed = False
                states[site.endpoint.id] = gate.state
        return states

    # --- the end -----------------------------------------------------------------------------
    async def drain(self) -> None:
        """Commit what the streams have and give their jobs back."""
        # Past the deadline the database or a disk does not answer: what is committed is safe.
        self._until = time.monotonic() + DRAIN_S
        await self.plant.clock.last_turn()
        self.plant.pool.drain()
        await self.plant.pool.drained(DRAIN_S - LAST_S)

    async def close(self, worker: Callable[[], str], *, max_crashes: int) -> None:
        """Sign off and let go of everything, after `drain` and within its deadline.

        `worker` is asked once nothing else goes on.
        """
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

        states = self._gate_states(force=True)

        def sign_off(connection: sa.Connection) -> None:
            # A claim that was under way when we stopped: its jobs go back as if it had not been.
            own = [worker()]
            claims.reclaim(connection, dead=own, max_crashes=max_crashes, crashed=False)
            workers.retire(connection, workers=own)
            _save_gates(connection, states)

        with contextlib.suppress(TimeoutError, TokenspoolError):
            async with asyncio.timeout(self._until - time.monotonic() - LAST_S / 2):
                await self.write(sign_off)
        await self.plant.sites.permits.close()
        await self.plant.sites.close()
        self.plant.delivery.stop(max(0.0, self._until - time.monotonic()))
        self.plant.journal.close()


def _save_gates(connection: sa.Connection, states: Mapping[int, GateState]) -> None:
    """Write how endpoints stand, in the order in which everybody locks them."""
    for endpoint_id, state in sorted(states.items()):
        endpoints.set_state(
            connection,
            endpoint_id,
            state=state.state,
            reason=state.reason,
            retry_in_s=state.retry_in_s,
            limit=state.limit,
        )


class Stoppable(Protocol):
    """What runs on a loop of its own until it is done or a signal comes."""

    def stop(self) -> None:
        """Drain; asked again, leave at once."""
        ...

    async def run(self) -> RunResult:
        """Work."""
        ...


def run_on_loop(make: Callable[[], Stoppable], *, signals: bool = True) -> RunResult:
    """Run on an event loop of its own; the command line's way in.

    Signals drain it, unless somebody else handles them: only the main thread can.
    """
    # What is loaded by now stays; looking through it again and again took a tenth of the CPU.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 10, 10)
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - it exists only where it can be built

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_run(make, signals=signals))


async def _run(make: Callable[[], Stoppable], *, signals: bool) -> RunResult:
    run = make()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM) if signals else ():
        loop.add_signal_handler(number, run.stop)
    try:
        return await run.run()
    except UsageError:
        raise
    except Unavailable as error:
        return RunResult(exit_code=OUT_OF_REACH, reason=str(error))
