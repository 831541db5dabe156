"""What one beat costs: the text of all streams, committed in one transaction.

`python -P -m benchmarks.beat [--db URL] [--streams N] [--beside N]`; without a URL a SQLite file
below the folder we stand in, since memory file systems make fsync look free. The database of a URL
must be empty.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa
from msgspec import structs

from tokenspool import migrate
from tokenspool import tables as t
from tokenspool.database import Database, sqlite_url
from tokenspool.inputs import InputDefaults, read_inputs
from tokenspool.model import (
    Attempt,
    Completed,
    Ending,
    Entry,
    GivenBack,
    Job,
    Kind,
    Segment,
    Spent,
)
from tokenspool.store import claims
from tokenspool.store.beat import commit_beat
from tokenspool.store.folding import Folding, fold_some
from tokenspool.store.intake import JobOptions, enqueue
from tokenspool.store.publishing import Published, mark_done

#: What a stream of 200 tokens per second gathers from one beat to the next, in bytes.
PIECE = b"and the keeper of the lighthouse lit his lamp, as i"
#: How many jobs a worker claims at once.
CLAIM = 250


@dataclass(kw_only=True)
class Bench:
    """Claimed jobs, and how long each kind of transaction over all of them took, in seconds."""

    database: Database
    streams: int
    jobs: list[Job] = field(default_factory=list)
    took: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Take the time."""
        began = time.perf_counter()
        yield
        self.took.setdefault(what, []).append(time.perf_counter() - began)

    def claim(self) -> None:
        """Claim as many jobs as there are streams."""
        self.jobs = []
        with self.timed("claim"):
            while len(self.jobs) < self.streams:
                self.jobs += self.write(
                    lambda connection: claims.claim_ready(
                        connection, worker="w", endpoint_id=1, limit=CLAIM
                    )
                )

    def beat(self, what: str, ending: Ending | None = None) -> None:
        """Let every stream hand over a piece, and its ending if it has one."""
        entries = [_entry(job, ending) for job in self.jobs]
        with self.timed(what):
            lost = commit_beat(self.database, entries)
        assert not lost  # noqa: S101 - a beat that lost its jobs would be a fast one
        self.jobs = [replace(e.job, checkpoint=e.after) for e in entries]

    def write(self, operation: Callable[[sa.Connection], list[Job]]) -> list[Job]:
        """Run an operation in one transaction."""
        with self.database.write() as connection:
            return operation(connection)

    def finish(self) -> None:
        """Mark all as published and fold them."""
        done = [Published(job=j, size=j.checkpoint.text, sha256=b"x" * 32) for j in self.jobs]
        with self.timed("published"), self.database.write() as connection:
            mark_done(connection, done)
        todo = [Folding(job_id=job.id) for job in self.jobs]
        with self.timed("folded"):
            while todo:
                with self.database.write() as connection:
                    todo = fold_some(connection, todo)


def _entry(job: Job, ending: Ending | None) -> Entry:
    before = job.checkpoint
    start, end = before.text, before.text + len(PIECE)
    after = structs.replace(
        before,
        seq=before.seq + 1,
        offsets={Kind.TEXT: end},
        furthest=end,
        spent=Spent(generated=end // 4, needed=end // 4),
        cursor=f"chatcmpl-{job.id}",
    )
    piece = Segment(kind=Kind.TEXT, edition=1, seq=after.seq, start=start, data=PIECE)
    attempt = Attempt(
        strategy="",
        started_at=1.0,
        ended_at=2.0,
        outcome="finished",
        edition=1,
        from_offset=0,
        to_offset=end,
        request_id=f"req-{job.id}",
    )
    return Entry(
        job=job,
        worker="w",
        before=before,
        after=after,
        segments=(piece,),
        attempts=(attempt,) if ending else (),
        ending=ending,
    )


def _fill(database: Database, folder: Path, jobs: int) -> None:
    path = folder / "prompts.jsonl"
    lines = ({"custom_id": f"story-{n:07}", "prompt": f"Story {n}."} for n in range(jobs))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    inputs = read_inputs([path], InputDefaults(batch="bench", model="m"), warn=print)
    options = JobOptions(base_url="http://127.0.0.1:8000/v1")
    enqueue(database, "bench", "/nowhere", inputs, options)


def _beside(bench: Bench, count: int) -> None:
    """Let other jobs have their checkpoints in the same table."""
    for _ in range(0, count, CLAIM):
        bench.write(
            lambda connection: claims.claim_ready(
                connection, worker="other", endpoint_id=1, limit=CLAIM
            )
        )


def _measure(bench: Bench, *, beats: int, rounds: int) -> None:
    for _ in range(rounds):
        bench.claim()
        bench.beat("given back", GivenBack(cause="drain"))
        bench.claim()
        with bench.timed("reclaimed"), bench.database.write() as connection:
            claims.reclaim(connection, dead=["w"], max_crashes=99)
    bench.claim()
    for _ in range(beats):
        bench.beat("beat")
    bench.beat("completed", Completed(finish="stop"))
    bench.finish()


def main() -> None:
    """Print the median of each kind of transaction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", help="an empty database; SQLite in a temporary folder without")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--beats", type=int, default=50)
    parser.add_argument("--beside", type=int, default=0, help="jobs of others in the same tables")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        database = Database(asked.db or sqlite_url(Path(folder) / "spool.db"))
        migrate.upgrade(database)
        _fill(database, Path(folder), asked.streams + asked.beside)
        bench = Bench(database=database, streams=asked.streams)
        _beside(bench, asked.beside)
        _measure(bench, beats=asked.beats, rounds=5)
        with database.read() as connection:
            rows = connection.execute(sa.select(sa.func.count()).select_from(t.checkpoint)).scalar()
        print(f"{database.kind}: {asked.streams:,} streams, {rows:,} checkpoints")
        for what, took in bench.took.items():
            print(f"{what:12} {1000 * statistics.median(took):8.1f} ms  of {len(took)}")
        database.close()


if __name__ == "__main__":
    main()
