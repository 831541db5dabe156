"""Which jobs are claimed first, over SQLite and PostgreSQL: by priority, then fairly, in order."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.model import Job
from tokenspool.store import choosing, claims, groups


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def claim(seeds: Seeds, limit: int, *, seed: int = 0, endpoint_id: int = 1) -> list[Job]:
    """Claim with dice that fall the same each time."""
    with seeds.database.write() as connection:
        return claims.claim_ready(
            connection,
            worker="w",
            endpoint_id=endpoint_id,
            limit=limit,
            chance=random.Random(seed),
        )


def names(jobs: list[Job]) -> list[str]:
    """Give what was claimed."""
    return [job.custom_id for job in jobs]


def add_many(
    seeds: Seeds, count: int, *, batch: str = "b", priority: str = "0", hidden: bool = False
) -> None:
    """Make jobs like the first of the batch, which is made first, at the speed of the database."""
    seeds.enqueue(f"{batch}-0", batch=batch, hidden=hidden)
    made = {"id", "custom_id", "name", "name_key", "priority"}
    same = [column.name for column in t.job.c if column.name not in made]
    postgresql = seeds.database.kind == "postgresql"
    numbers = (
        "n (i) AS (SELECT generate_series(1, :count))"
        if postgresql
        else "n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
    )
    name = "j.custom_id || '-' || n.i"
    with seeds.database.write() as connection:
        connection.execute(
            sa.text(
                f"WITH RECURSIVE {numbers}"  # noqa: S608 - names of our own
                f" INSERT INTO job (custom_id, name, name_key, priority, {', '.join(same)})"
                f" SELECT {name}, {name}, {name}, {priority}, {', '.join('j.' + c for c in same)}"
                " FROM n, job j WHERE j.custom_id = :like"
            ),
            {"count": count, "like": f"{batch}-0"},
        )


def pause(seeds: Seeds, *batches: str) -> None:
    """Pause batches as a person would."""
    with seeds.database.write() as connection:
        chosen = t.batch.c.name.in_(batches)
        connection.execute(sa.update(t.batch).where(chosen).values(paused=True))


def test_a_small_batch_has_its_turn_beside_a_large_one(seeds: Seeds) -> None:
    """One slot at a time falls free, and the ten are done long before the thousand."""
    add_many(seeds, 1000, batch="large")
    seeds.enqueue(*(f"small{n}" for n in range(10)), batch="small")

    claimed = [name for seed in range(60) for name in names(claim(seeds, 1, seed=seed))]

    small = [at for at, name in enumerate(claimed) if name.startswith("small")]
    assert [claimed[at] for at in small] == [f"small{n}" for n in range(10)]
    assert small[-1] < 50
    assert small[0] < 10


def test_batches_share_what_is_claimed_equally(seeds: Seeds) -> None:
    """Whatever their sizes are, and each in its own order."""
    for batch, size in (("a", 50), ("b", 30), ("c", 10)):
        seeds.enqueue(*(f"{batch}{n}" for n in range(size)), batch=batch)

    claimed = names(claim(seeds, 20))

    shares = Counter(name[0] for name in claimed)
    assert sorted(shares.values()) == [6, 7, 7]
    for batch, share in shares.items():
        assert [name for name in claimed if name[0] == batch] == [
            f"{batch}{n}" for n in range(share)
        ]


def test_what_a_batch_leaves_goes_to_the_others(seeds: Seeds) -> None:
    """No slot stays free while anything may be claimed."""
    seeds.enqueue("a1", batch="a")
    seeds.enqueue("b1", "b2", batch="b")
    seeds.enqueue(*(f"c{n}" for n in range(40)), batch="c")

    claimed = names(claim(seeds, 30))

    assert len(claimed) == 30
    assert {"a1", "b1", "b2"} <= set(claimed)


def test_priority_goes_before_fairness(seeds: Seeds) -> None:
    """The urgent of one batch come before anything of another, then the shares begin."""
    seeds.enqueue("a1", "a2", "a3", batch="a")
    seeds.enqueue("b1", "b2", batch="b", priority=1)
    seeds.enqueue("b9", batch="b", priority=9)
    seeds.enqueue("a5", batch="a", priority=5)
    seeds.enqueue("c-9", batch="c", priority=-9)

    in_order = [name for seed in range(8) for name in names(claim(seeds, 1, seed=seed))]

    assert in_order == ["b9", "a5", "b1", "b2", "a1", "a2", "a3", "c-9"]


def test_an_urgent_job_gives_its_batch_no_more_of_the_rest(seeds: Seeds) -> None:
    """It is claimed first; what follows is shared as if it had not been there."""
    seeds.enqueue("urgent", batch="a", priority=9)
    seeds.enqueue(*(f"a{n}" for n in range(30)), batch="a", priority=5)
    seeds.enqueue(*(f"b{n}" for n in range(30)), batch="b", priority=5)

    claimed = names(claim(seeds, 21))

    assert "urgent" in claimed
    assert Counter(name[0] for name in claimed) == {"u": 1, "a": 10, "b": 10}


def test_one_claim_goes_down_through_many_priorities(seeds: Seeds) -> None:
    """Each job may have its own: the best of all batches are claimed, whoever's they are."""
    add_many(seeds, 60, batch="even", priority="2 * n.i")
    add_many(seeds, 60, batch="odd", priority="2 * n.i + 1")
    looks: list[bool] = []
    fetch = choosing._fetch

    def counted(*args: Any) -> bool:
        looks.append(fetch(*args))
        return looks[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_fetch", counted)
        claimed = claim(seeds, 50)

    rows = {row["id"]: row["priority"] for row in seeds.rows(t.job)}
    assert [rows[job.id] for job in claimed] == list(range(121, 71, -1))
    assert sum(looks) == 2
    rest = [rows[job.id] for job in claim(seeds, 1000)]
    assert rest == [*range(71, 1, -1), 0, 0]


def test_jobs_of_one_batch_go_in_order_over_its_intakes(seeds: Seeds) -> None:
    """What was enqueued first comes first; what is urgent comes before it."""
    for intake in range(1, 4):
        seeds.enqueue(f"{intake}a", f"{intake}b", intake_id=100 + intake)
    seeds.enqueue("urgent", intake_id=104, priority=2)

    assert names(claim(seeds, 3)) == ["urgent", "1a", "1b"]
    assert names(claim(seeds, 3)) == ["2a", "2b", "3a"]
    assert names(claim(seeds, 3)) == ["3b"]


def test_groups_beyond_the_bound_have_their_turn(
    seeds: Seeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk looks at some of them, and the next one at others."""
    monkeypatch.setattr(groups, "MOST", 3)
    for n in range(12):
        seeds.enqueue(*(f"{n}-{job}" for job in range(13)), batch=f"batch{n}")

    first = {job.batch_id for seed in range(12) for job in claim(seeds, 1, seed=seed)}
    while claim(seeds, 50):
        pass

    assert len(first) > 5
    assert {row["state"] for row in seeds.rows(t.job)} == {"running"}


def test_groups_that_are_held_back_do_not_hide_the_others(seeds: Seeds) -> None:
    """Paused batches and an unfinished enqueue stand before, between and behind."""
    for n in range(9):
        seeds.enqueue(f"{n}a", f"{n}b", batch=f"batch{n}", priority=9 - n, hidden=n in {0, 5})
    pause(seeds, "batch1", "batch2", "batch8")

    for seed in range(4):
        assert names(claim(seeds, 2, seed=seed)) == [f"{(3, 4, 6, 7)[seed]}{x}" for x in "ab"]
    assert claim(seeds, 9) == []


def test_an_unrevealed_intake_leaves_the_rest_of_its_batch_free(seeds: Seeds) -> None:
    """More lines are being enqueued into a batch that is at work."""
    seeds.enqueue("a", "b")
    with seeds.database.write() as connection:
        new = t.intake.insert().values(batch_id=1, created_at=0.0, revealed=False)
        hidden = connection.execute(new.returning(t.intake.c.id)).scalar_one()
    seeds.enqueue("hidden", intake_id=hidden, priority=9)

    assert names(claim(seeds, 9)) == ["a", "b"]
    seeds.change(t.intake, revealed=True)
    assert names(claim(seeds, 9)) == ["hidden"]


def test_many_claimers_of_many_batches_get_each_job_once(seeds: Seeds) -> None:
    """Together they get all, whatever the batches and priorities are."""
    for batch in range(5):
        seeds.enqueue(*(f"{batch}-{n}" for n in range(40)), batch=f"b{batch}", priority=batch % 2)

    def work(seed: int) -> list[str]:
        mine: list[str] = []
        while jobs := claim(seeds, 7, seed=seed):
            assert len(jobs) <= 7
            mine += names(jobs)
        return mine

    with ThreadPoolExecutor(4) as threads:
        taken = [name for some in threads.map(work, range(4)) for name in some]
    taken += work(9)  # what was passed by because somebody held it just then

    assert sorted(taken) == sorted(f"{batch}-{n}" for batch in range(5) for n in range(40))


def test_an_endpoint_gets_its_own_jobs_only(seeds: Seeds) -> None:
    """The same batch may have jobs for several."""
    with seeds.database.write() as connection:
        for url in ("http://x", "http://y"):
            row = t.endpoint.insert().values(url=url, model="m", api_key_env="K")
            connection.execute(row)
    seeds.enqueue("a", "c")
    seeds.enqueue("b", endpoint_id=2, priority=9)

    assert names(claim(seeds, 9)) == ["a", "c"]
    assert names(claim(seeds, 9, endpoint_id=2)) == ["b"]


# --- what it costs --------------------------------------------------------------------------------
def effort(seeds: Seeds, work: Callable[[sa.Connection], object]) -> int:
    """Count what the database does for it: steps of SQLite, pages that PostgreSQL looks at."""
    with seeds.database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if isinstance(driver, sqlite3.Connection):
            return _steps(driver, lambda: work(connection))
        return _pages(connection, work)


def _steps(driver: sqlite3.Connection, work: Callable[[], object]) -> int:
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    driver.set_progress_handler(step, 10)
    work()
    driver.set_progress_handler(None, 10)
    return count


def _pages(connection: sa.Connection, work: Callable[[sa.Connection], object]) -> int:
    plans: list[Any] = []

    def explain(_connection: object, cursor: Any, said: str, values: Any, *_: Any) -> None:
        # Looks only: what is run twice must not change anything.
        if said.lstrip().startswith(("SELECT p.", "WITH RECURSIVE")):
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {said}", values)
            plans.append(cursor.fetchone()[0][0])

    sa.event.listen(connection, "before_cursor_execute", explain)
    work(connection)
    connection.rollback()
    nodes = [node for plan in plans for node in _nodes(plan["Plan"])]
    looks = {node["Node Type"] for node in nodes if node.get("Relation Name") == "job"}
    assert looks <= {"Index Scan", "Index Only Scan"}
    assert not any("JIT" in plan for plan in plans)
    kinds = ("Shared Hit Blocks", "Shared Read Blocks")
    return sum(plan["Plan"][kind] for plan in plans for kind in kinds)


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def test_a_claim_costs_the_same_beside_any_number_of_jobs(seeds: Seeds) -> None:
    """Neither the queue, nor a paused batch, nor an unfinished enqueue is read through."""
    seeds.enqueue("a", "b", "c")
    take = partial(claims.claim_ready, worker="w", endpoint_id=1, limit=1)
    few = effort(seeds, take)

    add_many(seeds, 20_000, batch="paused", priority="n.i")
    pause(seeds, "paused")
    add_many(seeds, 20_000, batch="unseen", hidden=True)
    add_many(seeds, 20_000, batch="large")

    assert effort(seeds, take) < 5 * few
