"""Which endpoints have work, and how quickly the database says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import migrate
from tokenspool import tables as t
from tokenspool.database import Database, sqlite_url
from tokenspool.errors import ErrorKind
from tokenspool.model import Failure, Postponed
from tokenspool.store import claims
from tokenspool.store.endpoints import with_work

LATER = Postponed(failure=Failure(kind=ErrorKind.NETWORK, message="cut"), delay_s=3600.0)


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def working(database: Database) -> list[str]:
    """Give the URLs of the endpoints that have work."""
    with database.read() as connection:
        return [endpoint.url for endpoint, _, _ in with_work(connection)]


def test_pending_and_waiting_jobs_are_work(database: Database, seeds: Seeds) -> None:
    """What runs or has ended is none."""
    seeds.enqueue("a")
    assert working(database) == ["http://x/v1"]
    seeds.claim()
    assert working(database) == []
    seeds.spool("a", "x", ending=LATER)
    assert working(database) == ["http://x/v1"]


@pytest.mark.parametrize("state", ["pending", "waiting"])
def test_jobs_of_a_paused_batch_are_no_work(database: Database, seeds: Seeds, state: str) -> None:
    """A run that waited for them would never end."""
    seeds.enqueue("a", state=state)
    seeds.change(t.batch, paused=True)

    assert working(database) == []


def test_jobs_that_an_enqueue_left_hidden_are_no_work(database: Database, seeds: Seeds) -> None:
    """Killed in the middle, it leaves them until the next enqueue."""
    seeds.enqueue("a", hidden=True)
    assert working(database) == []
    seeds.enqueue("b", batch="other")
    assert working(database) == ["http://x/v1"]


def test_the_id_of_a_removed_endpoint_is_never_used_again(database: Database) -> None:
    """A worker that still knows the old row would send the new one's jobs to the old URL."""

    def make(url: str) -> int:
        new = t.endpoint.insert().values(url=url, model="m", api_key_env="K")
        return int(connection.execute(new.returning(t.endpoint.c.id)).scalar_one())

    with database.write() as connection:
        first = make("http://refused")
        connection.execute(t.endpoint.delete())
        assert make("http://new") > first


@pytest.mark.parametrize(
    ("operation", "indexes"),
    [
        (with_work, {"job_claimable", "job_waiting"}),
        (claims.wake_due, {"job_due"}),
        (partial(claims.claim_ready, worker="w", endpoint_id=1, limit=5), {"job_claimable"}),
        (partial(claims.claim_complete, worker="w", limit=5), {"job_complete"}),
    ],
)
def test_jobs_are_found_through_partial_indexes(
    tmp_path: Path, operation: Callable[[sa.Connection], object], indexes: set[str]
) -> None:
    """With 1,000,000 jobs done, a look every half second must not see them."""
    database = Database(sqlite_url(tmp_path / "spool.db"))
    migrate.upgrade(database)
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, said: str, values: Any, *_: Any) -> None:
        cursor = connection.connection.cursor()
        plans.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {said}", values))

    with database.write() as connection:
        sa.event.listen(connection, "before_cursor_execute", explain)
        operation(connection)
    database.close()

    assert {name for name in indexes for plan in plans if f"INDEX {name} " in f"{plan} "} == indexes
    # The job table goes by these names in the statements.
    assert not [plan for plan in plans if plan in {"SCAN job", "SCAN j", "SCAN f"}]
