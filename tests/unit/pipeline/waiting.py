"""Waiting for what other tasks and threads bring about, without sleeping for luck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Far more than anything here takes; a promise that is not kept fails instead of hanging.
TURNS = 20_000


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds."""
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0.0002)
    msg = "it never came to hold"
    raise AssertionError(msg)


async def a_while() -> None:
    """Let everything that could happen by itself happen."""
    for _ in range(20):
        await asyncio.sleep(0.0002)
