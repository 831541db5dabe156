"""A workbench for engine tests: a real SQLite database, a folder, and a scripted endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.budget import Budget
from pipeline.journal import Journal
from pipeline.outputs.delivery import Delivery
from pipeline.outputs.folder import FolderOutput
from pipeline.parts import Parts, Site
from pipeline.ports import Fault, no_fault
from pipeline.retry import RetryPolicy
from pipeline.runner import run_job
from pipeline.sources.probe import probe
from pipeline.sources.scripted import Script, ScriptedSource
from pipeline.watch import Timeouts, Watch
from tokenspool import tables as t
from tokenspool.database import Database, sqlite_url
from tokenspool.model import Completed, Ending, Job, Kind, Prefill
from tokenspool.store import claims, endpoints, publishing
from tokenspool.store.endpoints import Known
from tokenspool.store.text import read_text
from worker.clock import Clock, Rhythm
from worker.gate import Gate
from worker.sqlstore import SqlStore

#: Of one length, so that every sample of a document has its tokens at the same places.
WORDS = ["river", "stone", "below", "quiet", "нитка", "слово", "haven", "under", "where", "light"]


def numbered(count: int, sample: int = 0) -> list[str]:
    """Make tokens that tell their place: doubled or missing ones are seen at once."""
    return [f" {WORDS[(i * (sample + 1)) % len(WORDS)]}·{i}" for i in range(count)]


def places(text: str) -> list[int]:
    """Read the places back."""
    return [int(token.rsplit("·", 1)[1]) for token in text.split()]


@dataclass
class Bench:
    """Everything of one engine, in a temporary folder."""

    folder: Path
    script: Script
    known: Known = field(default_factory=Known)
    fault: Fault = no_fault
    flags: tuple[Prefill, ...] = (Prefill.CONTINUE_FINAL_MESSAGE,)
    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(base_s=0.001, cap_s=0.001))
    learned: list[Known] = field(default_factory=list)
    #: So long that it never comes: then the test says when there is a beat.
    beat_s: float = 0.002

    def __post_init__(self) -> None:
        self.database = Database(sqlite_url(self.folder / "spool.db"))
        # No power is cut here, and a disk under load takes milliseconds for each sync.
        sa.event.listen(self.database.engine, "connect", _without_syncs)
        self.store = SqlStore(self.database)
        self.source = ScriptedSource(self.script)
        if not (self.folder / "spool.db").exists():
            with self.database.write() as connection:
                t.metadata.create_all(connection)
                connection.execute(t.batch.insert().values(id=1, name="b", created_at=0))
                connection.execute(
                    t.intake.insert().values(id=1, batch_id=1, created_at=0, revealed=True)
                )
                connection.execute(t.output.insert().values(id=1, root=str(self.folder / "out")))
                connection.execute(
                    t.endpoint.insert().values(id=1, url="http://x/v1", model="m", api_key_env="K")
                )

    def enqueue(self, name: str = "job", **columns: Any) -> int:
        """Insert one pending job."""
        body = columns.pop("body", {"model": "m", "messages": []})
        values = {
            "batch_id": 1, "intake_id": 1, "endpoint_id": 1, "output_id": 1, "custom_id": name,
            "content": b"x" * 16, "name": f"{name}.md", "name_key": f"{name}.md", "api": "chat",
            "body": json.dumps(body).encode(), "resume": "auto", "max_continuations": 64,
            "max_attempts": 5, "state": "pending", "created_at": 0,
        } | columns  # fmt: skip
        with self.database.write() as connection:
            result = connection.execute(t.job.insert().values(values))
            assert result.inserted_primary_key is not None
            return int(result.inserted_primary_key[0])

    def claim(self) -> Job:
        """Claim the best job; due ones are woken first."""
        with self.database.write() as connection:
            connection.execute(
                sa.update(t.job).where(t.job.c.state == "waiting").values(state="pending")
            )
            return claims.claim_ready(connection, worker="w", endpoint_id=1, limit=1)[0]

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[tuple[Parts, Site]]:
        """Run the journal's beats and the watch."""
        clock = Clock(Rhythm(beat_s=self.beat_s))
        delivery = Delivery(self.store, FolderOutput, threads=1, fault=self.fault)
        self.delivery = delivery
        journal = Journal(self.store, clock, show=delivery.show, fault=self.fault)
        watch = Watch(self.timeouts)

        async def remember(known: Known) -> None:
            self.learned.append(known)
            await journal.call(lambda: self.store.write(lambda c: endpoints.remember(c, 1, known)))

        parts = Parts(
            worker="w", store=self.store, journal=journal, delivery=delivery,
            budget=Budget(64 << 20, slots=8), watch=watch, retry=self.retry,
            max_output_bytes=1 << 30, fault=self.fault,
        )  # fmt: skip
        job_endpoint = claims_endpoint()
        site = Site(
            endpoint=job_endpoint, source=self.source, gate=Gate(8), flags=self.flags,
            known=self.known, remember=remember,
            probe=partial(probe, self.source, flags=self.flags),
        )  # fmt: skip
        keepers = [asyncio.ensure_future(journal.run()), asyncio.ensure_future(watch.run())]
        try:
            yield parts, site
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            delivery.stop(5)
            journal.close()

    async def run_once(
        self, during: Callable[[asyncio.Task[Any]], Any] | None = None
    ) -> Ending | None:
        """Claim and run one job, and publish it if it is complete."""
        async with self.engine() as (parts, site):
            job = self.claim()
            task = asyncio.ensure_future(run_job(job, parts, site))
            if during is not None:
                await during(task)
            ending = await task
            if isinstance(ending, Completed):
                published = await self.delivery.publish(job)
                assert published is not None
                with self.database.write() as connection:
                    publishing.mark_done(connection, [published])
            self.known = site.known
            return ending

    async def run_through(self, most: int = 50) -> Ending | None:
        """Run one job over as many claims as it takes."""
        ending = None
        for _ in range(most):
            ending = await self.run_once()
            if self.row("job", 1)["state"] not in {"pending", "waiting"}:
                break
        return ending

    def text(self, job_id: int = 1, edition: int = 1, kind: Kind = Kind.TEXT) -> str:
        """Read the journal."""
        with self.database.read() as connection:
            return b"".join(read_text(connection, job_id, edition=edition, kind=kind)).decode()

    def file(self, name: str = "job") -> str:
        """Read the published output."""
        return (self.folder / "out" / f"{name}.md").read_bytes().decode()

    def row(self, table: str, job_id: int) -> dict[str, Any]:
        """Read a job's row of a table."""
        return self.rows(table, job_id)[0]

    def rows(self, table: str, job_id: int = 1) -> list[dict[str, Any]]:
        """Read a job's rows of a table."""
        chosen = t.metadata.tables[table]
        key = chosen.c.id if table == "job" else chosen.c.job_id
        with self.database.read() as connection:
            return [
                dict(r)
                for r in connection.execute(sa.select(chosen).where(key == job_id)).mappings()
            ]


def _without_syncs(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


def claims_endpoint() -> Any:
    """Make the endpoint that all jobs of the bench have."""
    from tokenspool.model import Endpoint  # noqa: PLC0415 - kept beside its use

    return Endpoint(id=1, url="http://x/v1", model="m", api_key_env="K")
