"""A desk at which the tests enqueue lines, and look at what came of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.inputs import BadLine, InputDefaults, JobSpec, read_inputs
from tokenspool.model import JobState
from tokenspool.store import claims, reads
from tokenspool.store.intake import Enqueued, JobOptions, Listener, enqueue

OPTIONS = JobOptions(base_url="http://127.0.0.1:8000/v1")
QUICK = Listener(pause=lambda _: None)


class Desk:
    """Enqueues lines of JSON into one database, as the command does."""

    def __init__(self, database: Database, folder: Path) -> None:
        """Root the outputs below the folder."""
        self.database = database
        self.folder = folder

    def lines(self, *docs: object, name: str = "in") -> Iterator[JobSpec | BadLine]:
        """Write an input and read it."""
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(doc)}\n" for doc in docs))
        return read_inputs([path], InputDefaults(batch="b", model="m"), warn=pytest.fail)

    def take(
        self,
        *docs: object,
        name: str = "in",
        batch: str = "b",
        root: str = "/out",
        options: JobOptions = OPTIONS,
        **asked: Any,
    ) -> Enqueued:
        """Enqueue lines."""
        lines = self.lines(*docs, name=name)
        listener = asked.pop("listener", QUICK)
        return enqueue(self.database, batch, root, lines, options, listener=listener, **asked)

    def rows(self, table: sa.Table = t.job) -> list[dict[str, Any]]:
        """Give all rows of a table."""
        with self.database.read() as connection:
            result = connection.execute(sa.select(table).order_by(*table.primary_key))
            return [dict(row) for row in result.mappings()]

    def ids(self) -> list[str]:
        """Name the jobs that are there."""
        return [row["custom_id"] for row in self.rows()]

    def claim(self) -> list[str]:
        """Claim all there is, as a worker would."""
        claimed: list[str] = []
        for row in self.rows(t.endpoint):
            with self.database.write() as connection:
                jobs = claims.claim_ready(connection, worker="w", endpoint_id=row["id"], limit=9999)
            claimed += [job.custom_id for job in jobs]
        return claimed

    def pending(self) -> int:
        """Count as `status` does."""
        with self.database.read() as connection:
            return reads.counts(connection).jobs[JobState.PENDING]

    def is_untouched(self) -> bool:
        """Tell whether there is nothing in any table."""
        return not any(self.rows(table) for table in t.metadata.sorted_tables)


def prompts(*names: str, **fields: object) -> list[dict[str, object]]:
    """Give a line for each name."""
    return [{"custom_id": name, "prompt": f"about {name}", **fields} for name in names]


def many(count: int) -> list[dict[str, object]]:
    """Give more lines than one transaction takes."""
    return prompts(*(f"job-{number:05}" for number in range(count)))
