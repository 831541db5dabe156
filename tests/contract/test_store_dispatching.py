"""The dispatcher's window on PostgreSQL: how many jobs are offered, which, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import migrate
from tokenspool import tables as t
from tokenspool.database import Database, now, sqlite_url
from tokenspool.errors import UsageError
from tokenspool.store import actions, claims, dispatching, reads
from tokenspool.store.dispatching import Hint, fill_window


@pytest.fixture
def database(shared_postgresql: str) -> Iterator[Database]:
    """Give a migrated database that is empty."""
    database = Database(shared_postgresql)
    with database.write() as connection:
        names = ", ".join(table.name for table in t.metadata.sorted_tables)
        connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY"))
    yield database
    database.close()


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def names_of(hints: list[Hint]) -> list[str]:
    """Give the custom_ids."""
    return [hint.custom_id for hint in hints]


def fill(seeds: Seeds, **asked: Any) -> list[str]:
    """Fill the window once; give whose hints are to be published."""
    with seeds.database.write() as connection:
        return names_of(fill_window(connection, **asked))


def counts(seeds: Seeds) -> dict[str, int]:
    """Give the counts that are not zero."""
    with seeds.database.read() as connection:
        found = reads.counts(connection)
    return {state.value: jobs for state, jobs in found.jobs.items() if jobs}


def test_the_best_are_dispatched_and_named(seeds: Seeds) -> None:
    """A hint says which job it stands for; the job's row says until when it may be taken."""
    seeds.enqueue("a", "b", batch="books")
    seeds.enqueue("urgent", batch="books", priority=3)

    with seeds.database.write() as connection:
        hints = fill_window(connection, lookahead=2, hint_s=30.0)

    assert hints == [
        Hint(job_id=3, custom_id="urgent", batch="books"),
        Hint(job_id=1, custom_id="a", batch="books"),
    ]
    with seeds.database.read() as connection:
        left = sa.select(t.job.c.run_at - now()).where(t.job.c.custom_id == "a")
        assert 20 < connection.execute(left).scalar_one() <= 30
        assert dispatching.dispatched(connection) == 2
    assert counts(seeds) == {"pending": 1, "dispatched": 2}


def test_the_window_is_twice_the_free_slots_of_the_living(seeds: Seeds) -> None:
    """Workers that drain or died count for nothing; and it is never exceeded."""
    seeds.enqueue(*(f"job{n}" for n in range(40)))
    for worker in ("living", "draining", "dead"):
        seeds.live_worker(worker)  # 8 slots, 3 streams
    w = t.worker.c
    with seeds.database.write() as connection:
        connection.execute(sa.update(t.worker).where(w.id == "draining").values(state="draining"))
        connection.execute(sa.update(t.worker).where(w.id == "dead").values(lease_until=now() - 1))

    assert len(fill(seeds)) == 10
    assert fill(seeds) == []
    seeds.claim(4)
    assert len(fill(seeds, lookahead=3)) == 7
    assert counts(seeds) == {"pending": 23, "dispatched": 13, "running": 4}


def test_a_worker_with_more_streams_than_slots_takes_nothing_from_the_others(seeds: Seeds) -> None:
    """It may carry more for a moment; the others' slots are as free as before."""
    seeds.enqueue("a", "b", "c")
    seeds.live_worker("full")
    seeds.change(t.worker, slots=1, streams=30)
    seeds.live_worker("free")
    with seeds.database.write() as connection:
        free = sa.update(t.worker).where(t.worker.c.id == "free")
        connection.execute(free.values(slots=1, streams=0))

    assert fill(seeds) == ["a", "b"]


def test_the_window_has_a_bound(seeds: Seeds, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the fleet is, the broker's queue stays short."""
    monkeypatch.setattr(dispatching, "MOST", 2)
    seeds.enqueue("a", "b", "c")

    assert fill(seeds, lookahead=10**9) == ["a", "b"]


def test_a_hint_that_nobody_took_is_offered_again(seeds: Seeds) -> None:
    """Its time has passed: back to pending, in the counts as well, and into the window anew."""
    seeds.enqueue("a", "b")
    assert fill(seeds, lookahead=1, hint_s=30) == ["a"]
    assert fill(seeds, lookahead=1) == []
    seeds.change(t.job, run_at=now() - 1)
    seeds.enqueue("urgent", priority=1)

    assert fill(seeds, lookahead=1) == ["urgent"]

    assert counts(seeds) == {"pending": 2, "dispatched": 1}
    assert (seeds.row("a")["state"], seeds.row("a")["run_at"]) == ("pending", None)


def test_a_dispatched_job_is_claimed_like_a_pending_one(seeds: Seeds) -> None:
    """A lost hint costs nothing but time, and what is more urgent goes before it."""
    seeds.enqueue("a", "b")
    fill(seeds, lookahead=1)
    seeds.enqueue("urgent", priority=1)

    assert [job.custom_id for job in seeds.claim(1)] == ["urgent"]
    assert [job.custom_id for job in seeds.claim(9)] == ["a", "b"]
    assert seeds.row("a")["run_at"] is None
    assert counts(seeds) == {"running": 3}


def test_a_dispatched_job_can_be_cancelled(seeds: Seeds) -> None:
    """Whoever takes its hint finds something else to do, or nothing."""
    seeds.enqueue("a")
    fill(seeds, lookahead=1)

    chosen = actions.Chosen(batch_id=1)
    assert actions.cancel(seeds.database, chosen, who="me", pause=lambda _: None) == 1

    assert (seeds.row("a")["state"], seeds.row("a")["run_at"]) == ("cancelled", None)
    assert seeds.claim() == []
    assert counts(seeds) == {"cancelled": 1}


def test_what_may_not_be_claimed_is_not_dispatched(seeds: Seeds) -> None:
    """A person's pause, an unfinished enqueue."""
    seeds.enqueue("hidden", batch="unrevealed", hidden=True)
    seeds.enqueue("paused", batch="paused")
    with seeds.database.write() as connection:
        connection.execute(sa.update(t.batch).where(t.batch.c.name == "paused").values(paused=True))

    assert fill(seeds, lookahead=9) == []


@pytest.mark.parametrize(
    ("state", "retry_in_s", "takes"),
    [
        ("up", None, True),
        ("busy", 60.0, False),
        ("busy", -1.0, True),
        ("down", 60.0, False),
        ("down", -1.0, True),
        ("down", None, False),
        ("refused", None, False),
        ("paused", None, False),
    ],
)
def test_endpoints_that_take_no_work_have_no_place_in_the_window(
    seeds: Seeds, state: str, retry_in_s: float | None, *, takes: bool
) -> None:
    """Their hints would wake slots for nothing; one that may be tried again is woken for."""
    seeds.enqueue("a")
    retry_at = None if retry_in_s is None else now() + retry_in_s
    seeds.change(t.endpoint, state=state, retry_at=retry_at)

    assert fill(seeds, lookahead=9) == ["a"] * takes


def test_endpoints_and_batches_share_the_window(seeds: Seeds) -> None:
    """What one leaves goes to the others, so that the window is always full."""
    seeds.enqueue(*(f"big{n}" for n in range(50)))
    seeds.enqueue("small1", "small2", batch="small")
    with seeds.database.write() as connection:
        connection.execute(t.endpoint.insert().values(url="http://y", model="m", api_key_env="K"))
    seeds.enqueue("other1", "other2", "other3", batch="other", endpoint_id=2)

    hints = fill(seeds, lookahead=20)

    assert len(hints) == 20
    assert {"small1", "small2", "other1", "other2", "other3"} <= set(hints)


def test_a_window_smaller_than_the_number_of_endpoints_is_filled(seeds: Seeds) -> None:
    """Those that come first may have nothing that can be taken; then it is the others' turn."""
    with seeds.database.write() as connection:
        for number in range(6):
            row = t.endpoint.insert().values(url=f"http://{number}", model="m", api_key_env="K")
            connection.execute(row)
    seeds.enqueue("here", endpoint_id=6)
    for number in range(1, 6):
        seeds.enqueue(f"held{number}", endpoint_id=number)
    held = sa.select(t.job.c.id).where(t.job.c.endpoint_id < 6).with_for_update()

    with seeds.database.write() as other:
        other.execute(held)
        assert fill(seeds, lookahead=2) == ["here"]


def test_only_one_fills_the_window_at_a_time(seeds: Seeds) -> None:
    """The others find it done, and do not even wait."""
    seeds.enqueue("a", "b", "c")

    with seeds.database.write() as first:
        assert names_of(fill_window(first, lookahead=2)) == ["a", "b"]
        assert fill(seeds, lookahead=2) == []

    assert fill(seeds, lookahead=3) == ["c"]


def test_a_fill_that_is_rolled_back_leaves_nothing(seeds: Seeds) -> None:
    """Who dies before the commit has published nothing, and others fill the window at once."""
    seeds.enqueue("a")

    with seeds.database.engine.connect() as connection:
        assert names_of(fill_window(connection, lookahead=1)) == ["a"]
        connection.rollback()

    assert counts(seeds) == {"pending": 1}
    assert fill(seeds, lookahead=1) == ["a"]


def at_once(*works: Callable[[], None]) -> None:
    """Run all of them in threads; raises what one of them raised."""
    with ThreadPoolExecutor(len(works)) as threads:
        for running in [threads.submit(work) for work in works]:
            running.result()


def test_claims_and_cancels_go_on_beside_the_window(seeds: Seeds) -> None:
    """Nobody waits in a circle; each job is run once or cancelled, and the counts are right."""
    seeds.enqueue(*(f"job{n}" for n in range(600)))
    claimed: list[str] = []

    def claim(worker: str) -> None:
        while jobs := _claim(seeds, worker):
            claimed.extend(jobs)

    def dispatch() -> None:
        for _ in range(40):
            # Late at once, so that taking back meets claims as well.
            fill(seeds, lookahead=50, hint_s=0.0)

    def cancel() -> None:
        for job_id in range(1, 601, 7):
            chosen = actions.Chosen(job_id=job_id)
            actions.cancel(seeds.database, chosen, who="me", pause=lambda _: None)

    at_once(partial(claim, "one"), partial(claim, "two"), dispatch, dispatch, cancel)
    claim("last")  # what was passed by because the window held it just then

    assert len(claimed) == len(set(claimed))
    states = [row["state"] for row in seeds.rows(t.job)]
    assert counts(seeds) == {state: states.count(state) for state in set(states)}
    assert set(states) == {"running", "cancelled"}


def test_filling_the_window_reads_no_table_of_jobs_through(seeds: Seeds) -> None:
    """With 100,000 jobs that are done and 1,000 that wait; not even right after they came."""
    seeds.enqueue("a")
    made = {"id", "custom_id", "name", "name_key", "state"}
    same = ", ".join(column.name for column in t.job.c if column.name not in made)
    many = sa.text(
        f"INSERT INTO job (custom_id, name, name_key, state, {same})"  # noqa: S608 - our own
        f" SELECT n, n, n, CASE WHEN n <= 1000 THEN 'pending' ELSE 'done' END, {same}"
        " FROM job, generate_series(1, 101000) AS n"
    )
    plans: list[str] = []

    def explain(_connection: object, cursor: Any, said: str, values: Any, *_: Any) -> None:
        if said.lstrip().startswith(("SELECT", "WITH", "UPDATE")):
            cursor.execute(f"EXPLAIN {said}", values)
            plans.append("\n".join(row[0] for row in cursor))

    with seeds.database.write() as connection:
        connection.execute(many)
    with seeds.database.write() as connection:
        sa.event.listen(connection, "before_cursor_execute", explain)
        assert len(fill_window(connection, lookahead=200)) == 200

    assert [plan for plan in plans if "on job" in plan]
    assert not [plan for plan in plans if "Seq Scan on job" in plan]


def test_two_claimers_share_without_waiting(seeds: Seeds) -> None:
    """While one's claim is not committed, the other gets the next jobs, each just once."""
    seeds.enqueue("a1", "a2", "a3", batch="a")
    seeds.enqueue("b1", batch="b")
    fill(seeds, lookahead=2)

    with seeds.database.write() as first:
        one = claims.claim_ready(first, worker="one", endpoint_id=1, limit=2)
        two = _claim(seeds, "two")

    assert sorted([*(job.custom_id for job in one), *two]) == ["a1", "a2", "a3", "b1"]


def _claim(seeds: Seeds, worker: str) -> list[str]:
    with seeds.database.write() as connection:
        jobs = claims.claim_ready(connection, worker=worker, endpoint_id=1, limit=3)
    return [job.custom_id for job in jobs]


def test_sqlite_has_no_window(tmp_path: Path) -> None:
    """One process works it off by itself: said in one sentence, with what to use instead."""
    database = Database(sqlite_url(tmp_path / "spool.db"))
    migrate.upgrade(database)

    with database.write() as connection:
        for ask in (fill_window, dispatching.dispatched):
            with pytest.raises(UsageError, match="a fleet needs PostgreSQL"):
                ask(connection)
    database.close()
