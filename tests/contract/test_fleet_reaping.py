"""A worker that finds another one dead goes on with its jobs at once, on PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database, now
from worker import fleet
from worker.fleet import FleetOptions, FleetWorker
from worker.wiring import Tuning


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_the_dead_owned_is_claimed_without_waiting_for_a_poll(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a poll comes once an hour."""
    monkeypatch.setattr(fleet, "POLL_S", 3600.0)
    seeds = Seeds(database=database, root=tmp_path)
    seeds.live_worker("dead")
    seeds.enqueue("a")
    seeds.claim(worker="dead")
    lease_ends = sa.update(t.worker).where(t.worker.c.id == "dead").values(lease_until=now() - 1.0)

    async def until(reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not reached():
                await asyncio.sleep(0.05)

    async def work() -> float:
        tuning = Tuning(database=Database(database_url), streams=2)
        worker = FleetWorker(FleetOptions(tuning=tuning, lease_s=9.0))
        running = asyncio.create_task(worker.run())
        await until(lambda: len(seeds.rows(t.worker)) == 2)
        await asyncio.sleep(0.5)  # its first look at the jobs is over
        with database.write() as connection:
            connection.execute(lease_ends)
        began = time.monotonic()
        # Claimed by the dead one, taken from it, claimed again.
        await until(lambda: seeds.row("a")["epoch"] >= 3)
        worker.drain()
        await running
        tuning.database.close()
        return time.monotonic() - began

    assert asyncio.run(work()) < 60
