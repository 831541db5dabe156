"""Permits: jobs that go on wait for their turn, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tokenspool.errors import ErrorKind, StreamError
from worker.gate import Gate
from worker.limits.book import Asked, Grant
from worker.limits.news import News
from worker.limits.rates import Rates
from worker.limits.shared import Page, SharedBooks
from worker.permits import Permits


@contextlib.asynccontextmanager
async def running(permits: Permits) -> AsyncIterator[None]:
    """Look after those that wait."""
    keeper = asyncio.ensure_future(permits.run())
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await permits.close()


async def test_those_that_go_on_get_their_turns_at_the_rate() -> None:
    """Ten requests at twenty a second: about half a second, and none is refused."""
    permits = Permits()
    gate = Gate(8, rates=Rates(requests_per_minute=1200))
    permits.add(gate, str)
    loop = asyncio.get_running_loop()

    async with running(permits):
        began = loop.time()
        turns = await asyncio.gather(*(gate.again() for _ in range(10)))

    assert turns == [True] * 10
    assert loop.time() - began > 0.4


async def test_new_jobs_wait_for_those_that_go_on() -> None:
    """What is granted to a claim goes to them first."""
    permits = Permits()
    gate = Gate(8, rates=Rates(requests_per_minute=60))
    permits.add(gate, str)
    goes_on = asyncio.ensure_future(gate.again())
    await asyncio.sleep(0)

    claims = await permits.take(gate, 5)

    assert claims == 0
    assert await goes_on


async def test_a_job_that_is_cancelled_waits_no_more() -> None:
    """Its turn is the next one's."""
    permits = Permits()
    gate = Gate(8, rates=Rates(requests_per_minute=60))
    permits.add(gate, str)
    waits = asyncio.ensure_future(gate.again())
    await asyncio.sleep(0)

    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)

    assert not gate.has_waiting
    assert await permits.take(gate, 1) == 1


class Listening(SharedBooks):
    """Grants nothing, and remembers who said what it holds."""

    def __init__(self) -> None:
        super().__init__("redis://127.0.0.1:1/0", lease_s=0.5)
        self.told: list[str] = []

    async def ask(
        self, page: Page, asked: Asked, news: News, *, leave: bool = False
    ) -> Grant | None:
        """See the books."""
        del news, leave
        self.told.append(page.name)
        return Grant(again=0, claims=0, limit=8, most=8, in_flight=asked.held)


async def test_leases_of_a_quiet_endpoint_are_renewed_beside_a_busy_one() -> None:
    """Hours pass until its long answers end; nobody may take their permits meanwhile."""
    books = Listening()
    permits = Permits(books)
    quiet, busy = Gate(8), Gate(8)
    permits.add(quiet, lambda: "quiet")
    permits.add(busy, lambda: "busy")

    async with running(permits), asyncio.timeout(20):
        while books.told.count("quiet") < 5:
            busy.give(-1)  # holds one more, and says so
            await asyncio.sleep(0.01)

    assert books.told.count("busy") >= 5


async def test_no_more_is_taken_than_the_gate_lets_in() -> None:
    """Whatever a claim would like."""
    permits = Permits()
    gate = Gate(8)
    permits.add(gate, str)

    taken = [await permits.take(gate, wanted) for wanted in (5, 5, 5)]

    assert taken == [5, 3, 0]
    assert gate.in_flight == 8


class Deaf(Listening):
    """Is away at first, and keeps what it is told once it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = True
        self.heard: list[News] = []

    async def ask(
        self, page: Page, asked: Asked, news: News, *, leave: bool = False
    ) -> Grant | None:
        """See the books."""
        if self.is_away:
            return None
        self.heard.append(news)
        return await super().ask(page, asked, news, leave=leave)


async def test_what_nobody_heard_is_told_again() -> None:
    """A pause that the endpoint asked for while Redis was away holds for the others as well."""
    books, gate = Deaf(), Gate(8)
    permits = Permits(books)
    permits.add(gate, lambda: "page")
    gate.answered()
    gate.failed(StreamError(ErrorKind.RATE_LIMITED, "busy", retry_after_s=60))
    await permits._ask(gate, 0)
    gate.answered()

    books.is_away = False
    await permits._ask(gate, 0)
    await permits._ask(gate, 0)

    told, nothing = books.heard
    assert (told.answered, told.pause_until > 0) == (2, True)
    assert told.cut_asked_at is not None
    assert (nothing.answered, nothing.pause_until) == (0, 0)
