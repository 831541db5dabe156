"""Threads that ask for work, and the loop that meets them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.pipeline.waiting import until
from worker.demands import PATIENCE_S, Demand, Demands


class Clock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def demands(clock: Clock) -> Demands:
    """Give demands."""
    return Demands(clock=clock)


@pytest.fixture
def threads(demands: Demands) -> Iterator[ThreadPoolExecutor]:
    """Give threads to ask on; nobody is held after the test."""
    with ThreadPoolExecutor(8) as pool:
        yield pool
        demands.close()


async def one_of(demands: Demands) -> list[Demand]:
    """Take the first that waits."""
    await until(lambda: demands.waiting)
    return demands.take(1)


async def nothing(ends: asyncio.Event) -> None:
    """Be a job that runs until it is told to end."""
    await ends.wait()


async def test_a_thread_is_held_until_its_job_has_left(
    demands: Demands, threads: ThreadPoolExecutor
) -> None:
    """So that whoever looks at the threads sees what runs."""
    ends = asyncio.Event()
    task: asyncio.Task[object] = asyncio.ensure_future(nothing(ends))
    asked = threads.submit(demands.ask, 7)
    taken = await one_of(demands)

    demands.meet(taken, {7: task})
    await asyncio.sleep(0)
    assert not asked.done()
    ends.set()
    await task
    await until(asked.done)


async def test_one_meeting_serves_all_that_wait(
    demands: Demands, threads: ThreadPoolExecutor
) -> None:
    """One claim for many; who gets nothing is let go at once."""
    ends = asyncio.Event()
    asked = {number: threads.submit(demands.ask, number) for number in (1, 2, 3)}
    await until(lambda: demands.waiting == 3)
    taken = demands.take(3)
    task: asyncio.Task[object] = asyncio.ensure_future(nothing(ends))

    demands.meet(taken, {2: task})

    await until(lambda: asked[1].done() and asked[3].done())
    assert not asked[2].done()
    ends.set()
    await task
    await until(asked[2].done)


async def test_a_job_that_nobody_named_goes_to_whoever_is_left(
    demands: Demands, threads: ThreadPoolExecutor
) -> None:
    """The best job is claimed, not the hinted one."""
    ends = asyncio.Event()
    asked = threads.submit(demands.ask, 1)
    taken = await one_of(demands)
    task: asyncio.Task[object] = asyncio.ensure_future(nothing(ends))

    demands.meet(taken, {99: task})

    await asyncio.sleep(0)
    assert not asked.done()
    ends.set()
    await task
    await until(asked.done)


async def test_no_more_are_taken_than_slots_are_free(
    demands: Demands, threads: ThreadPoolExecutor, clock: Clock
) -> None:
    """The others wait for a slot, but not for long."""
    asked = [threads.submit(demands.ask, number) for number in range(3)]
    await until(lambda: demands.waiting == 3)

    demands.meet(demands.take(1), {})
    await until(lambda: sum(one.done() for one in asked) == 1)
    assert demands.waiting == 2

    clock.now += PATIENCE_S + 0.1
    assert demands.take(0) == []
    await until(lambda: all(one.done() for one in asked))


async def test_a_cancelled_job_lets_its_thread_go(
    demands: Demands, threads: ThreadPoolExecutor
) -> None:
    """A drain cancels what runs."""
    task: asyncio.Task[object] = asyncio.ensure_future(nothing(asyncio.Event()))
    asked = threads.submit(demands.ask, 1)
    demands.meet(await one_of(demands), {1: task})

    task.cancel()

    await until(asked.done)


async def test_closing_lets_everybody_go(demands: Demands, threads: ThreadPoolExecutor) -> None:
    """Those who wait, those who hold a job, and those who come later."""
    task: asyncio.Task[object] = asyncio.ensure_future(nothing(asyncio.Event()))
    holding = threads.submit(demands.ask, 1)
    demands.meet(await one_of(demands), {1: task})
    waiting = threads.submit(demands.ask, 2)
    await until(lambda: demands.waiting == 1)

    demands.close()

    await until(lambda: holding.done() and waiting.done())
    threads.submit(demands.ask, 3).result(5)
    task.cancel()


def test_whoever_asks_wakes_the_loop(demands: Demands, threads: ThreadPoolExecutor) -> None:
    """Nobody has to look for demands."""
    woken = threading.Event()
    demands.listen(woken.set)

    threads.submit(demands.ask, 1)

    assert woken.wait(5)
