"""Permits of all endpoints of a process: who may ask now, by one's own book or by that of all.

One call asks for a whole claim, and tells on the way what we hold and what we found out. While
Redis is away each living worker keeps its share; whatever it grants then is counted again when it
is back, since each call says all that is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from worker.gate import Gate
from worker.limits.shared import Page, SharedBooks

#: Jobs that wait for a rate are looked after so often at the most, and the others told so often.
GATHER_S = 0.05
#: Without anybody waiting nothing is to be told before this.
IDLE_S = 3.0
#: A process that ends does not wait longer for a Redis that hangs.
CLOSE_S = 0.5


class Permits:
    """Gives permits out. All of it lives on the event loop, never on the journal's thread."""

    def __init__(self, books: SharedBooks | None = None) -> None:
        """Without `books` every gate has its own book alone."""
        self._books = books
        self._gates: dict[Gate, Page] = {}
        #: Workers that live, as the database last said.
        self.workers = 1
        self._wake = asyncio.Event()
        self._asking = asyncio.Lock()

    def add(self, gate: Gate, name: Callable[[], str]) -> None:
        """Look after a gate; `name` names its book among those of all, if there are such."""
        page_name = "" if self._books is None else name()
        self._gates[gate] = Page(name=page_name, rates=gate.rates, slots=gate.slots)
        gate.wake = self._wake.set

    async def take(self, gate: Gate, wanted: int) -> int:
        """Give permits for up to `wanted` jobs that are about to be claimed; never waits for one.

        Those that are not used are given back to the gate.
        """
        wanted = min(wanted, gate.room())
        return await self._ask(gate, wanted) if wanted > 0 else 0

    async def run(self) -> None:
        """Look after those that wait for another request, and tell the others; until cancelled."""
        renew_s = IDLE_S if self._books is None else self._books.renew_s
        renewed_at = time.monotonic()
        while True:
            waits = [gate.wait_s or GATHER_S for gate in self._gates if gate.has_waiting]
            rest = max(0.0, renewed_at + renew_s - time.monotonic())
            # Not wait_for: in 3.11 it swallows a cancellation that comes with the wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min([*waits, rest])):
                    await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            # By the clock: while one endpoint is busy the leases of the quiet ones must not end.
            renews = time.monotonic() >= renewed_at + renew_s
            if renews:
                renewed_at = time.monotonic()
            for gate in list(self._gates):
                if gate.has_waiting or (self._books and (renews or gate.is_behind())):
                    await self._ask(gate, 0)

    async def close(self) -> None:
        """Give all permits back, as far as anybody can be told; they are leases in any case."""
        if self._books is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S), self._asking:
                for gate, page in self._gates.items():
                    asked, news = gate.asks(0)
                    await self._books.ask(page, asked, news, leave=True)
        await self._books.close()

    async def _ask(self, gate: Gate, wanted: int) -> int:
        if self._books is not None:
            async with self._asking:
                # Those that were asked for meanwhile may have taken it.
                wanted = min(wanted, gate.room())
                asked, news = gate.asks(wanted)
                grant = await self._books.ask(self._gates[gate], asked, news)
                if grant is not None:
                    return gate.accept(grant)
                gate.retell(news)
        return gate.take(wanted, workers=self.workers)
