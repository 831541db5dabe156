"""How long a claim takes beside 1,000 to 1,000,000 queued jobs: it must not depend on them.

`python -P -m benchmarks.claims [--postgres URL] [--only sqlite|postgresql] [--sizes N ...]
[--quick]`; on PostgreSQL in a database of its own, which is removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from tokenspool import migrate
from tokenspool.database import Database, sqlite_url
from tokenspool.store import claims

_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"
#: Jobs of one claim, and how often it is measured.
_CLAIMS = ((1, 100), (50, 15))
_NUMBERS = {
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)",
    "postgresql": "WITH n (i) AS (SELECT generate_series(1, :count))",
}
_INTAKES = """
INSERT INTO intake (id, batch_id, created_at, revealed)
{numbers} SELECT :first + i - 1, :batch, 0, true FROM n
"""
_JOBS = """
INSERT INTO job (batch_id, intake_id, endpoint_id, output_id, custom_id, content, name, name_key,
  api, body, priority, resume, max_continuations, max_attempts, state, created_at)
{numbers} SELECT :batch, :intake + i % :intakes, 1, 1, 'job-' || i, :content,
  :batch || '-' || i || '.md', :batch || '-' || i || '.md', 'chat', :body, 0, 'auto', 64, 5,
  'pending', 0 FROM n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What is queued: batches in the order of their ids."""

    name: str
    #: Jobs that may be claimed.
    jobs: int
    batches: int = 1
    intakes: int = 1
    #: Jobs of a paused batch in front of the others.
    paused: int = 0


def _queues(sizes: list[int]) -> Iterator[Queue]:
    for size in sizes:
        yield Queue(name="one batch", jobs=size)
    most = max(sizes)
    yield Queue(name="behind a paused batch", jobs=most, paused=most)
    yield Queue(name="100 batches", jobs=most, batches=100)
    yield Queue(name="10,000 intakes", jobs=most, intakes=10_000)


def _fill(database: Database, queue: Queue) -> None:
    with database.write() as connection:
        for table in ("job", "batch", "intake", "checkpoint", "job_count", "endpoint", "output"):
            connection.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 - a name of our own
        connection.execute(
            sa.text("INSERT INTO endpoint (id, url, model, api_key_env) VALUES (1, 'u', 'm', 'K')")
        )
        connection.execute(sa.text("INSERT INTO output (id, root) VALUES (1, '/out')"))
        if queue.paused:
            _add_batch(connection, 1, jobs=queue.paused, intakes=1, paused=True)
        for number in range(queue.batches):
            jobs = queue.jobs // queue.batches
            _add_batch(connection, 2 + number, jobs=jobs, intakes=queue.intakes, paused=False)
    if database.kind == "postgresql":
        with database.engine.connect() as plain:
            connection = plain.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(sa.text("VACUUM ANALYZE"))


def _add_batch(
    connection: sa.Connection, batch: int, *, jobs: int, intakes: int, paused: bool
) -> None:
    numbers = _NUMBERS[connection.dialect.name]
    first = batch * 1_000_000
    named = {"id": batch, "name": f"batch {batch}", "paused": paused}
    connection.execute(
        sa.text("INSERT INTO batch (id, name, created_at, paused) VALUES (:id, :name, 0, :paused)"),
        named,
    )
    made = {"count": intakes, "first": first, "batch": batch}
    connection.execute(sa.text(_INTAKES.format(numbers=numbers)), made)
    numbers_of = {"batch": batch, "intake": first, "intakes": intakes, "count": jobs}
    connection.execute(
        sa.text(_JOBS.format(numbers=numbers)).bindparams(
            sa.bindparam("batch", type_=sa.BigInteger), sa.bindparam("intake", type_=sa.BigInteger)
        ),
        {**numbers_of, "content": bytes(16), "body": b'{"model": "m", "messages": []}'},
    )


def _measure(database: Database, limit: int, times: int) -> float:
    """Give the median seconds of a claim without its commit, which is the disk's own time."""
    took = []
    for _ in range(times):
        with database.write() as connection:
            began = time.perf_counter()
            jobs = claims.claim_ready(connection, worker="bench", endpoint_id=1, limit=limit)
            took.append(time.perf_counter() - began)
        if len(jobs) != limit:
            raise SystemExit(f"claimed {len(jobs)} of {limit} jobs")
    return statistics.median(took)


@contextlib.contextmanager
def _sqlite() -> Iterator[Database]:
    """Give a file below the folder we stand in: memory file systems make fsync look free."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        database = Database(sqlite_url(Path(folder) / "spool.db"))
        yield database
        database.close()


@contextlib.contextmanager
def _postgresql(server: str) -> Iterator[Database]:
    name = f"tokenspool_bench_{os.getpid()}_{secrets.token_hex(4)}"
    url = sa.make_url(server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
        database = Database(url.set(database=name).render_as_string(hide_password=False))
        try:
            yield database
        finally:
            database.close()
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def main() -> None:
    """Print a table: milliseconds of a claim of one and of fifty, and jobs per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", default=_POSTGRES, help="a server on which to make one")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--quick", action="store_true", help="small sizes, whatever --sizes says")
    asked = parser.parse_args()
    sizes = [1_000, 20_000] if asked.quick else asked.sizes
    heads = "".join(f"{f'claim of {limit}':>14}" for limit, _ in _CLAIMS)
    print(f"{'database':11}{'queue':24}{'jobs':>10}{heads}{'jobs/s':>10}")
    for kind in ("sqlite", "postgresql"):
        if asked.only not in {None, kind}:
            continue
        with _sqlite() if kind == "sqlite" else _postgresql(asked.postgres) as database:
            migrate.upgrade(database)
            for queue in _queues(sizes):
                _fill(database, queue)
                took = [_measure(database, limit, times) for limit, times in _CLAIMS]
                each = "".join(f"{1000 * one:11.1f} ms" for one in took)
                rate = _CLAIMS[-1][0] / took[-1]
                line = f"{kind:11}{queue.name:24}{queue.jobs:10,}{each}{rate:10,.0f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
