"""The pool: from claim to published output, within its slots, whatever single jobs meet."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.outputs import delivery as delivery_module
from pipeline.parts import Parts
from pipeline.ports import Source
from pipeline.sources.scripted import Cut, Script, ScriptedSource, cut_after
from tests.unit.pipeline.bench import Bench, numbered
from tests.unit.pipeline.waiting import until
from tokenspool import tables as t
from tokenspool.errors import ErrorKind
from tokenspool.store import claims
from tokenspool.store import prune as prune_module
from worker.limits.rates import Rates
from worker.pool import Pool
from worker.sites import Sites

DOCUMENT = "".join(numbered(20))


@dataclass
class Yard:
    """A pool with everything around it."""

    bench: Bench
    parts: Parts
    pool: Pool
    sites: Sites

    async def drained(self) -> None:
        """Claim and wait until nothing is left to do."""
        for _ in range(200):
            self.pool.changed.clear()
            with self.bench.database.write() as connection:
                connection.execute(
                    sa.update(t.job).where(t.job.c.state == "waiting").values(state="pending")
                )
            started = await self.pool.claim("w") + await self.pool.claim_complete("w")
            if self.pool.failure is not None:
                raise self.pool.failure
            if not started and self.pool.is_idle:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.pool.changed.wait(), 0.2)
        msg = "it never drained"
        raise AssertionError(msg)

    def states(self) -> list[str]:
        """Give the jobs' states."""
        with self.bench.database.read() as connection:
            return list(connection.execute(sa.select(t.job.c.state).order_by(t.job.c.id)).scalars())


@contextlib.asynccontextmanager
async def yard(
    folder: Path, script: Script, *, slots: int = 4, jobs: int = 1
) -> AsyncIterator[Yard]:
    """Make a pool over a scripted endpoint, and jobs for it."""
    bench = Bench(folder, script)
    for number in range(jobs):
        bench.enqueue(f"job{number}")
    async with bench.engine() as (parts, _):
        source: Source = bench.source
        sites = Sites(
            bench.store,
            parts.journal,
            slots=slots,
            source_for=lambda _: source,
            flags_for=lambda _: bench.flags,
        )
        yield Yard(bench, parts, Pool(parts, bench.store, sites, slots=slots), sites)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try outputs again soon."""
    monkeypatch.setattr(delivery_module, "RETRY_S", 0.001)


class Counting(ScriptedSource):
    """Counts the streams that are open at once."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.open = self.most = 0

    async def stream(self, ask):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """See the port."""
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            async for event in super().stream(ask):
                yield event
        finally:
            self.open -= 1


async def test_every_job_is_done_within_the_slots(tmp_path: Path) -> None:
    """Twenty jobs through four slots: all published, never more than four at once."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20)), jobs=20) as place:
        source = Counting(Script(tokens=lambda _: numbered(20)))
        place.sites._source_for = lambda _: source

        await place.drained()

        assert source.most == 4
        assert place.states() == ["done"] * 20
        assert place.pool.ended == 20
        assert place.pool.is_idle
        assert place.pool.free == 4
        assert all(place.bench.file(f"job{n}") == DOCUMENT for n in range(20))


async def test_one_job_that_fails_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """Each ends as it ends."""
    cuts: list[Cut | None] = [None, cut_after(-1, ErrorKind.REQUEST), cut_after(5)]
    script = Script(tokens=lambda _: numbered(20), cuts=cuts)
    async with yard(tmp_path, script, slots=1, jobs=4) as place:
        await place.drained()

        assert place.states() == ["done", "failed", "done", "done"]


async def test_a_paused_endpoint_gets_no_work(tmp_path: Path) -> None:
    """A person said so."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20))) as place:
        with place.bench.database.write() as connection:
            connection.execute(sa.update(t.endpoint).values(state="paused"))

        await place.drained()

        assert place.states() == ["pending"]


async def test_an_endpoint_in_trouble_is_tried_with_one_stream(tmp_path: Path) -> None:
    """The jobs behind it stay where they are, and lose no attempt."""
    cuts: list[Cut | None] = [cut_after(-1, ErrorKind.CONNECT)] * 100
    script = Script(tokens=lambda _: numbered(20), cuts=cuts)
    async with yard(tmp_path, script, slots=1, jobs=3) as place:
        await place.pool.claim("w")
        await until(lambda: place.pool.is_idle)

        assert await place.pool.claim("w") == 0
        assert place.states() == ["pending"] * 3
        assert place.bench.row("job", 1)["attempts"] == 0


async def test_jobs_without_a_permit_stay_where_they_are(tmp_path: Path) -> None:
    """They hold no slot, and the pool says when the next may begin."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20)), jobs=3) as place:
        place.sites._rates_for = lambda _: Rates(requests_per_minute=1)

        started = [await place.pool.claim("w") for _ in range(2)]
        await until(lambda: place.pool.is_idle)

        assert started == [1, 0]
        assert place.states() == ["done", "pending", "pending"]
        assert place.pool.free == 4
        assert 50 < place.pool.permit_at - time.monotonic() <= 61


async def test_every_endpoint_with_work_gets_its_share_of_the_slots(tmp_path: Path) -> None:
    """Ten jobs of one model do not wait behind a hundred of another, and no slot stays empty."""
    cuts: list[Cut | None] = [Cut(after=5, error=None)] * 200
    script = Script(tokens=lambda _: numbered(20), cuts=cuts)
    async with yard(tmp_path, script, slots=12, jobs=100) as place:
        with place.bench.database.write() as connection:
            other = {"url": "http://127.0.0.1:1/v1", "model": "other", "api_key_env": "K"}
            connection.execute(t.endpoint.insert().values(id=2, **other))
        for number in range(4):
            place.bench.enqueue(f"other{number}", endpoint_id=2)

        started = await place.pool.claim("w")

        running = [place.bench.row("job", id_)["endpoint_id"] for id_, _ in place.pool.running]
        assert (started, running.count(1), running.count(2)) == (12, 8, 4)
        place.pool.drain()
        assert await place.pool.drained(5)


async def test_permits_for_which_there_was_no_job_are_given_back(tmp_path: Path) -> None:
    """Somebody else claimed them, or they belong to a paused batch."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20)), jobs=2) as place:
        place.sites._rates_for = lambda _: Rates(requests_per_minute=60)
        with place.bench.database.write() as connection:
            connection.execute(sa.update(t.job).values(state="waiting", run_at=1e12))
        gates = [place.sites.gate(site) for site in await place.sites.refresh()]

        started = await place.pool.claim("w")

        assert started == 0
        assert [gate.in_flight for gate in gates] == [0]
        assert gates[0].take(1) == 1


async def test_draining_gives_every_stream_back_with_what_it_has(tmp_path: Path) -> None:
    """SIGTERM: committed, given back, no attempt spent."""
    cuts: list[Cut | None] = [Cut(after=5, error=None)] * 3
    script = Script(tokens=lambda _: numbered(20), cuts=cuts)
    async with yard(tmp_path, script, jobs=3) as place:
        await place.pool.claim("w")
        await until(lambda: place.bench.source.generated == 15)

        place.pool.drain()
        drained = await place.pool.drained(5)

        assert drained
        assert place.states() == ["pending"] * 3
        for number in (1, 2, 3):
            assert place.bench.text(number) == "".join(numbered(5))
            assert place.bench.row("job", number)["attempts"] == 0


async def test_a_drain_at_the_last_moment_does_not_undo_the_end(tmp_path: Path) -> None:
    """While the ending is being committed there is nothing left to stop."""
    held, reached = asyncio.Event(), asyncio.Event()
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20))) as place:
        settle: Callable[..., Awaitable[None]] = place.parts.journal.settle

        async def slowly(spooler: object) -> None:
            if spooler._ending is not None:  # type: ignore[attr-defined]
                reached.set()
                await held.wait()
            await settle(spooler)

        place.parts.journal.settle = slowly  # type: ignore[method-assign]
        await place.pool.claim("w")
        await reached.wait()
        place.pool.drain()
        held.set()
        await place.pool.drained(5)
        await until(lambda: place.pool.is_idle)

        assert place.states() == ["done"]
        assert place.bench.file("job0") == DOCUMENT


async def test_complete_jobs_of_the_dead_are_published(tmp_path: Path) -> None:
    """The text was whole before its worker died; nothing is asked of the endpoint again."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20))) as place:
        publishing, place.pool._publish = place.pool._publish, lambda _: None  # type: ignore[method-assign, assignment]
        await place.pool.claim("w")
        await until(lambda: place.states() == ["complete"])
        with place.bench.database.write() as connection:
            claims.reclaim(connection, dead=None, max_crashes=3)
        place.pool._publish = publishing  # type: ignore[method-assign]

        await place.drained()

        assert place.states() == ["done"]
        assert len(place.bench.source.requests) == 1
        assert place.bench.file("job0") == DOCUMENT
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["job0.md"]


async def test_a_part_that_somebody_deleted_is_made_again(tmp_path: Path) -> None:
    """The claim still stands, so it was not lost to another: the run must not end without it."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20))) as place:
        deleted: list[Path] = []

        def delete(point: str) -> None:
            if point == "before_publish" and not deleted:
                deleted.extend((tmp_path / "out").glob("*.part"))
                deleted[0].unlink()

        place.bench.delivery._fault = delete

        await place.drained()

        assert deleted
        assert place.states() == ["done"]
        assert place.bench.file("job0") == DOCUMENT


async def test_damaged_text_fails_its_own_job_only(tmp_path: Path) -> None:
    """It is said what is wrong, and the others are published."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20)), slots=1, jobs=2) as place:

        def damage(point: str) -> None:
            if point == "before_ending":
                return
            if point == "after_ending":
                with place.bench.database.write() as connection:
                    connection.execute(
                        sa.update(t.segment).where(t.segment.c.job_id == 1).values(crc=1)
                    )

        place.pool._parts = replace(place.parts, fault=damage)

        await place.drained()

        row = place.bench.row("job", 1)
        assert (row["state"], row["error_kind"]) == ("failed", "storage")
        assert "damaged" in row["error_message"]
        assert place.states() == ["failed", "done"]


async def test_the_text_of_done_jobs_is_folded(tmp_path: Path) -> None:
    """Many small segments become one, and read as before."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(400))) as place:
        await place.drained()

        assert place.bench.text() == "".join(numbered(400))
        assert len(place.bench.rows("segment")) == 1


async def test_without_keep_the_journal_forgets_what_is_published(tmp_path: Path) -> None:
    """The file is all there is then; the job's row and its length stay."""
    script = Script(tokens=lambda _: numbered(50))
    async with yard(tmp_path, script, jobs=3) as place:
        place.pool = Pool(place.parts, place.bench.store, place.sites, slots=2, keep=False)
        await place.drained()

        assert place.states() == ["done"] * 3
        for number in range(3):
            assert place.bench.file(f"job{number}") == "".join(numbered(50))
            assert place.bench.rows("segment", number + 1) == []
            assert place.bench.row("job", number + 1)["bytes"] == len(
                "".join(numbered(50)).encode()
            )


async def test_what_a_death_leaves_to_be_forgotten_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgetting goes in steps; after a death between two of them `prune` does the rest."""
    monkeypatch.setattr(prune_module, "_STEP_BYTES", 1)
    script = Script(tokens=lambda _: numbered(50))
    async with yard(tmp_path, script, jobs=2) as place:
        await place.drained()
        database = place.bench.database
        with database.write() as connection:
            left = prune_module.forget_some(connection, [1, 2])
        # We die here: nobody asks for the rest.
        held = [len(place.bench.rows("segment", job)) for job in (1, 2)]

        pruned = prune_module.prune(database, older_than_s=-1, leftover=lambda _: None)

        assert (left, held, pruned.jobs) == ([1, 2], [0, 1], 1)
        assert [place.bench.rows("segment", job) for job in (1, 2)] == [[], []]


async def test_an_unforeseen_error_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    """A defect of ours is not worked around in silence."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20))) as place:

        def broken(point: str) -> None:
            if point == "before_done":
                raise ZeroDivisionError

        place.pool._parts = replace(place.parts, fault=broken)

        with pytest.raises(ZeroDivisionError):
            await place.drained()


async def test_finished_work_behind_a_stuck_output_stops_the_claims(tmp_path: Path) -> None:
    """Memory is bounded: no further answers are fetched while none can be written."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20)), slots=2) as place:
        stuck = asyncio.ensure_future(asyncio.sleep(9))
        place.pool._publishing = {(n, 1): stuck for n in range(203)}
        assert place.pool.free == 2

        place.pool._publishing[204, 1] = stuck

        assert place.pool.free == 0
        stuck.cancel()
        place.pool._publishing = {}


async def test_no_more_is_published_at_once_than_files_may_be_open(tmp_path: Path) -> None:
    """The limit of the process is smaller than what the slots would allow."""
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20)), slots=2, jobs=3) as place:
        with place.bench.database.write() as connection:
            connection.execute(sa.update(t.job).values(state="complete"))
        place.pool = Pool(place.parts, place.bench.store, place.sites, slots=2, publishing_limit=2)

        assert await place.pool.claim_complete("w") == 2
        assert place.pool.free == 0
        await place.drained()

        assert place.states() == ["done"] * 3


async def test_a_lost_claim_that_waits_for_its_output_is_stopped(tmp_path: Path) -> None:
    """It is among the owners that are looked after; its part is let go of."""
    (tmp_path / "out").write_text("not a folder")
    async with yard(tmp_path, Script(tokens=lambda _: numbered(20))) as place:
        delivery = place.bench.delivery
        await place.pool.claim("w")
        await until(lambda: delivery.trouble)
        (owner,) = place.pool.owners

        place.pool.lose({owner})
        await until(lambda: place.pool.is_idle)

        assert owner == (1, 1)
        assert not delivery._lanes
        assert not delivery.trouble
        assert place.pool.failure is None
        assert place.states() == ["complete"]
