"""The engine while its database is away, slow, or refuses: nothing lost, doubled, or unbounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline import journal as journal_module
from pipeline.budget import Budget
from pipeline.runner import run_job
from pipeline.sources.scripted import Cut, Script, cut_after
from pipeline.watch import Timeouts
from tests.unit.pipeline.bench import Bench, numbered, places
from tests.unit.pipeline.told import OPENED, SILENCE, Told, finish, text
from tests.unit.pipeline.waiting import a_while, until
from tokenspool import tables as t
from tokenspool.database import DatabaseError
from tokenspool.errors import ErrorKind
from tokenspool.model import Completed, Entry, GaveUp
from tokenspool.store import claims
from worker.sqlstore import SqlStore

AWAY = DatabaseError("spool.db", "database is locked", passing=True)
Meddle = Callable[[Sequence[Entry]], None]


class Meddled(SqlStore):
    """The real store, with something before and after its commits."""

    before: Meddle = staticmethod(lambda _: None)
    after: Meddle = staticmethod(lambda _: None)

    def commit(self, entries: Sequence[Entry]) -> frozenset[tuple[int, int]]:
        """See the port."""
        self.before(entries)
        lost = super().commit(entries)
        self.after(entries)
        return lost


def meddled(bench: Bench) -> Meddled:
    """Put a meddled store in the place of the bench's own."""
    store = bench.store = Meddled(bench.database)
    return store


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try an absent database again soon."""
    monkeypatch.setattr(journal_module, "AWAY_S", 0.0005)
    monkeypatch.setattr(journal_module, "AWAY_CAP_S", 0.001)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_every_other_commit_fails_and_the_text_is_whole(tmp_path: Path, when: str) -> None:
    """Also where it was done and only its answer was lost: no segment stands twice."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(1500)))
    bench.enqueue()
    store, calls = meddled(bench), 0

    def fail(_: Sequence[Entry]) -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise AWAY

    setattr(store, when, fail)
    await bench.run_once()

    assert calls >= 4
    assert places(bench.file()) == list(range(1500))
    segments = sorted((row["start"], len(row["data"])) for row in bench.rows("segment"))
    assert sum(size for _, size in segments) == len(bench.file().encode())
    assert len(bench.rows("attempt")) == 1


async def test_a_stalled_database_bounds_memory_and_costs_nothing(tmp_path: Path) -> None:
    """Streams stop reading when the budget is full, are not called silent, and go on."""
    tokens = ["x" * 1000] * 400
    bench = Bench(
        tmp_path, Script(tokens=lambda _: tokens), timeouts=Timeouts(first_byte_s=9, idle_s=0.05)
    )
    for number in range(3):
        bench.enqueue(f"job{number}")
    store, free, held = meddled(bench), threading.Event(), threading.Event()

    def hold(_: Sequence[Entry]) -> None:
        held.set()
        free.wait(20)

    store.before = hold
    async with bench.engine() as (roomy, site):
        budget = Budget(64_000, slots=3)
        parts = replace(roomy, budget=budget)
        tasks = [asyncio.ensure_future(run_job(bench.claim(), parts, site)) for _ in range(3)]
        await until(lambda: held.is_set() and budget.is_full)
        most = 0
        for _ in range(20):  # several times as long as a stream may be silent
            await asyncio.sleep(0.01)
            most = max(most, budget.used)
        free.set()
        endings = await asyncio.gather(*tasks)

    assert endings == [Completed(finish="stop")] * 3
    assert most <= 32_000 + 3 * 1000
    assert budget.used == 0
    assert [len(bench.text(number)) for number in (1, 2, 3)] == [400_000] * 3
    assert bench.source.generated == 1200


@pytest.mark.parametrize("what", ["text", "last text", "ending"])
async def test_refused_data_fails_its_job_as_storage_and_no_other(
    tmp_path: Path, what: str
) -> None:
    """The text up to there is kept without a gap; the others are published."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(60)))
    bench.enqueue("bad")
    bench.enqueue("good")
    store = meddled(bench)

    def refuse(entries: Sequence[Entry]) -> None:
        for entry in (e for e in entries if e.job.id == 1):
            data = b"".join(segment.data for segment in entry.segments)
            ends = isinstance(entry.ending, Completed)
            bad = {
                "text": b"\xc2\xb730" in data,
                "last text": b"\xc2\xb759" in data,
                "ending": ends,
            }
            if bad[what]:
                msg = "a NUL in a text column"
                raise ValueError(msg)

    store.before = refuse
    async with bench.engine() as (parts, site):
        bad, good = await asyncio.gather(
            *(run_job(bench.claim(), parts, site) for _ in range(2)),
        )

    assert isinstance(bad, GaveUp)
    assert bad.failure.kind is ErrorKind.STORAGE
    assert bench.row("job", 1)["state"] == "failed"
    kept = places(bench.text(1))
    assert kept == list(range(len(kept)))
    assert len(kept) <= {"text": 30, "last text": 59, "ending": 60}[what]
    assert good == Completed(finish="stop")
    assert places(bench.text(2)) == list(range(60))
    assert parts.budget.used == 0


async def test_a_refused_stream_that_is_silent_is_stopped(tmp_path: Path) -> None:
    """It holds no slot while it waits for text that could not be kept."""
    bench = Bench(tmp_path, Script(tokens=lambda _: []))
    bench.source = Told([[OPENED, text("bad"), SILENCE]])  # type: ignore[assignment]
    bench.enqueue()
    store = meddled(bench)

    def refuse(entries: Sequence[Entry]) -> None:
        if any(entry.segments for entry in entries):
            raise ValueError

    store.before = refuse
    ending = await asyncio.wait_for(bench.run_once(), 5)

    assert isinstance(ending, GaveUp)
    assert bench.text() == ""


async def test_empty_deltas_do_not_break_the_journal(tmp_path: Path) -> None:
    """Providers send them; two segments at one place would be refused."""
    bench = Bench(tmp_path, Script(tokens=lambda _: []))

    class Slow(Told):
        async def stream(self, ask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            async for event in super().stream(ask):
                yield event
                await a_while()  # a beat for each

    bench.source = Slow(  # type: ignore[assignment]
        [[OPENED, text(""), text(""), text("a"), text(""), text("b"), text(""), finish()]]
    )
    bench.enqueue()

    await bench.run_once()

    assert bench.file() == "ab"


async def test_a_read_that_fails_for_now_is_tried_again(tmp_path: Path) -> None:
    """Going on needs what is saved: a database that is away for a moment ends no run."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(50), cuts=[cut_after(20)]))
    bench.enqueue(resume="prefill")
    store, tries = meddled(bench), 0
    given = store.text

    def away(*arguments: Any, **named: Any) -> Iterator[bytes]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise AWAY
        return given(*arguments, **named)

    store.text = away  # type: ignore[method-assign]
    await bench.run_through()

    assert tries > 1
    assert places(bench.file()) == list(range(50))


async def test_a_damaged_segment_fails_its_own_job_alone(tmp_path: Path) -> None:
    """It cannot be gone on from; the others of the run are none the worse for it."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(50), cuts=[Cut(after=20, error=None)]))
    bench.enqueue(resume="prefill")

    async def stop(task: asyncio.Task[Any]) -> None:
        await until(lambda: bench.row("checkpoint", 1)["text"])
        task.cancel()

    await bench.run_once(during=stop)
    with bench.database.write() as connection:
        connection.execute(sa.update(t.segment).values(crc=t.segment.c.crc + 1))

    ending = await bench.run_once()

    assert isinstance(ending, GaveUp)
    assert ending.failure.kind is ErrorKind.STORAGE
    assert "is damaged; `tokenspool resume --restart` begins it anew" in ending.failure.message
    assert bench.row("job", 1)["state"] == "failed"


async def test_a_zombie_that_was_robbed_during_an_outage_commits_nothing(tmp_path: Path) -> None:
    """What it had gathered while the database was away belongs to nobody any more."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(30)))
    bench.enqueue()
    store, calls = meddled(bench), 0

    def rob(_: Sequence[Entry]) -> None:
        nonlocal calls
        calls += 1
        if calls < 4:
            if calls == 1:
                with bench.database.write() as connection:
                    claims.reclaim(connection, dead=["w"], max_crashes=3)
            raise AWAY

    store.before = rob
    async with bench.engine() as (parts, site):
        assert await run_job(bench.claim(), parts, site) is None
        assert parts.budget.used == 0

    assert bench.text() == ""
    assert (bench.row("job", 1)["state"], bench.row("job", 1)["epoch"]) == ("pending", 2)
