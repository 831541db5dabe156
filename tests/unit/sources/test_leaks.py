"""Nothing is left of a stream that broke, was cancelled, or was left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading

import psutil
import pytest

from pipeline.ports import Ask, Delta
from tests.unit.sources.asking import BODY, get, served
from tests.unit.sources.raw import CLOSE, DONE, HANG, RESET, STOP, Step, chunked, head, text

ANSWER = chunked(text("Hello"), STOP, DONE)


def _held() -> tuple[int, int, int]:
    """Count what this process holds: open files, tasks, threads."""
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH208, PTH112
    return files, len(asyncio.all_tasks()), threading.active_count()


async def _break_off(streams: int) -> None:
    """Cut, cancel and leave streams in every way; then check that nothing is left of them."""
    begun = [*chunked(text("Hello"), end=False)]
    scripts: list[list[Step]] = [
        ANSWER,
        [*begun, RESET],
        [*begun, CLOSE],
        [*begun, HANG],
        [head(500), CLOSE],
        [HANG],
    ]
    async with served(*(scripts[n % 6] for n in range(streams + 1))) as (_, source):
        await get(source)
        before = _held()

        async def one(number: int) -> None:
            async with asyncio.timeout(0.3 + 0.01 * (number % 7)):
                if number % 3:
                    await get(source)
                    return
                async with contextlib.aclosing(source.stream(Ask(body=BODY))) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            break

        for start in range(0, streams, 50):
            await asyncio.gather(
                *(one(n) for n in range(start, start + 50)), return_exceptions=True
            )
        session = source._transport._session
        assert session is not None
        await session.connector.close()  # type: ignore[union-attr]
        # The server's side closes when it sees that ours is gone.
        async with asyncio.timeout(10):
            while (held := _held())[0] > before[0] or held[1] > before[1]:
                await asyncio.sleep(0.01)
        assert held[2] <= before[2] + 1


async def test_broken_streams_leave_nothing_behind() -> None:
    """After 200 streams cut, cancelled and left, files, tasks and threads are as before."""
    await _break_off(200)


@pytest.mark.soak
async def test_thousands_of_broken_streams_leave_nothing_behind() -> None:
    """The same after 5,000, and memory does not grow with their number."""
    await _break_off(1000)
    before = psutil.Process().memory_info().rss

    await _break_off(5000)

    assert psutil.Process().memory_info().rss < before + 20 * 1024 * 1024
