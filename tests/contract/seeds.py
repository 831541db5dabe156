"""Jobs in every state, made by the operations themselves: enqueued, claimed, spooled, ended."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from msgspec.structs import replace

from tokenspool import tables as t
from tokenspool.database import Database, now
from tokenspool.errors import ErrorKind
from tokenspool.model import (
    Attempt,
    Completed,
    Ending,
    Entry,
    Failure,
    GaveUp,
    Job,
    JobState,
    Kind,
    Seam,
    Segment,
    Spent,
)
from tokenspool.store import claims
from tokenspool.store.beat import commit_beat
from tokenspool.store.counts import Tally
from tokenspool.store.publishing import Published, mark_done
from tokenspool.store.text import read_text
from tokenspool.store.workers import register

GAVE_UP = GaveUp(failure=Failure(kind=ErrorKind.SERVER, message="the server said no"))


@dataclass
class Seeds:
    """A database to be filled with jobs, and the folder of their outputs."""

    database: Database
    root: Path
    jobs: dict[str, Job] = field(default_factory=dict)
    _batches: dict[str, tuple[int, int]] = field(default_factory=dict)

    def enqueue(self, *names: str, batch: str = "b", hidden: bool = False, **columns: Any) -> None:
        """Make pending jobs."""
        with self.database.write() as connection:
            endpoint, output = self._places(connection)
            batch_id, intake_id = self._intake(connection, batch, hidden=hidden)
            tally = Tally()
            for name in names:
                values = {
                    "batch_id": batch_id,
                    "intake_id": intake_id,
                    "endpoint_id": endpoint,
                    "output_id": output,
                    "custom_id": name,
                    "content": b"x" * 16,
                    "name": f"{batch}-{name}.md" if batch != "b" else f"{name}.md",
                    "name_key": f"{batch}-{name}.md",
                    "api": "chat",
                    "body": json.dumps({"model": "m", "messages": []}).encode(),
                    "resume": "auto",
                    "max_continuations": 64,
                    "max_attempts": 5,
                    "state": "pending",
                    "created_at": now(),
                }
                connection.execute(t.job.insert().values(values | columns))
                if not hidden:
                    tally.move(batch_id, None, JobState.PENDING)
            tally.write(connection)

    def claim(self, limit: int = 1000, *, worker: str = "w") -> list[Job]:
        """Claim what is pending."""
        with self.database.write() as connection:
            endpoint, _ = self._places(connection)
            claimed = claims.claim_ready(
                connection, worker=worker, endpoint_id=endpoint, limit=limit
            )
        self.jobs |= {job.custom_id: job for job in claimed}
        return claimed

    def spool(
        self,
        name: str,
        text: str = "",
        *,
        kind: Kind = Kind.TEXT,
        ending: Ending | None = None,
        seam: Seam | None = None,
    ) -> bool:
        """Commit more text of a claimed job, a token a byte; False if the claim was lost."""
        job = self.jobs[name]
        before, data = job.checkpoint, text.encode()
        start = before.offsets.get(kind, 0)
        spent = Spent(
            generated=before.spent.generated + len(data),
            needed=before.spent.needed + len(data),
            estimated=bool(data),
        )
        after = replace(
            before,
            seq=before.seq + 1,
            offsets={**before.offsets, kind: start + len(data)},
            spent=spent,
        )
        segment = Segment(kind=kind, edition=before.edition, seq=after.seq, start=start, data=data)
        entry = Entry(
            job=job,
            worker="w",
            before=before,
            after=after,
            segments=(segment,) if data else (),
            seams=(seam,) if seam else (),
            attempts=(_attempt(ending, start + len(data)),) if ending else (),
            ending=ending,
        )
        if commit_beat(self.database, [entry]):
            return False
        self.jobs[name] = changed(job, checkpoint=after)
        return True

    def done(self, name: str, text: str, *, publish: bool = True, **columns: Any) -> None:
        """Take a job all the way, its output file included."""
        if name not in self.jobs:
            self.enqueue(name, **columns)
            self.claim()
        self.spool(name, text, ending=Completed(finish="stop"))
        job = self.jobs[name]
        with self.database.read() as connection:
            edition = job.checkpoint.edition
            data = b"".join(read_text(connection, job.id, edition=edition))
        if publish:
            (self.root / job.name).write_bytes(data)
        digest = hashlib.sha256(data).digest()
        with self.database.write() as connection:
            mark_done(connection, [Published(job=job, size=len(data), sha256=digest)])

    def failed(
        self, name: str, text: str = "", *, ending: Ending = GAVE_UP, **columns: Any
    ) -> None:
        """Let a job fail with some text."""
        self.enqueue(name, **columns)
        self.claim()
        self.spool(name, text, ending=ending)

    def live_worker(self, worker: str = "w", *, tokens_per_s: float = 0.0) -> None:
        """Make the row of a living worker."""
        with self.database.write() as connection:
            register(connection, worker, version="1", slots=8)
            connection.execute(
                sa.update(t.worker)
                .where(t.worker.c.id == worker)
                .values(tokens_per_s=tokens_per_s, streams=3)
            )

    def change(self, table: sa.Table, **values: Any) -> None:
        """Change all rows of a table, as time or a person would."""
        with self.database.write() as connection:
            connection.execute(sa.update(table).values(values))

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        """Give all rows in the order they were made."""
        with self.database.read() as connection:
            result = connection.execute(sa.select(table).order_by(*table.primary_key))
            return [dict(row) for row in result.mappings()]

    def row(self, name: str) -> dict[str, Any]:
        """Give a job's row."""
        return next(row for row in self.rows(t.job) if row["custom_id"] == name)

    def checkpoint(self, name: str) -> dict[str, Any]:
        """Give a job's checkpoint row."""
        job_id = self.row(name)["id"]
        return next(row for row in self.rows(t.checkpoint) if row["job_id"] == job_id)

    def _places(self, connection: sa.Connection) -> tuple[int, int]:
        endpoint = connection.execute(sa.select(t.endpoint.c.id)).scalar()
        if endpoint is None:
            endpoint = _insert(
                connection, t.endpoint, url="http://x/v1", model="m", api_key_env="K"
            )
        output = connection.execute(sa.select(t.output.c.id)).scalar()
        if output is None:
            output = _insert(connection, t.output, root=str(self.root))
        return endpoint, output

    def _intake(self, connection: sa.Connection, batch: str, *, hidden: bool) -> tuple[int, int]:
        if batch not in self._batches:
            batch_id = _insert(connection, t.batch, name=batch, created_at=now())
            intake = _insert(
                connection, t.intake, batch_id=batch_id, created_at=now(), revealed=not hidden
            )
            self._batches[batch] = (batch_id, intake)
        return self._batches[batch]


def _insert(connection: sa.Connection, table: sa.Table, **values: Any) -> int:
    result = connection.execute(table.insert().values(values))
    return int((result.inserted_primary_key or [0])[0])


def _attempt(ending: Ending, to: int) -> Attempt:
    failure = ending.failure if isinstance(ending, GaveUp) else None
    return Attempt(
        strategy="",
        started_at=1.0,
        ended_at=2.0,
        outcome="failed" if failure else "finished",
        failure=failure,
        edition=1,
        from_offset=0,
        to_offset=to,
        request_id="req-1",
    )
