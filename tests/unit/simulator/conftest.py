"""Simulators on ports of their own, in the test's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from simulator.server import serve
from simulator.settings import SimSettings
from tests.unit.simulator.client import Client

#: Starts a simulator with these settings; gives a client of it.
Start = Callable[..., Awaitable[Client]]


@pytest.fixture
async def sim() -> AsyncIterator[Start]:
    """Start simulators in this loop; they stop with the test."""
    running: list[asyncio.Task[None]] = []

    async def start(**settings: Any) -> Client:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(SimSettings(**settings), told.set_result))
        running.append(task)
        return Client(int((await told).rsplit(":", 1)[1].removesuffix("/v1")))

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
