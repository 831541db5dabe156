"""The beat on PostgreSQL: its connection dies, others lock its rows, its data is refused."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from tests.contract.deaf import Deaf
from tests.contract.seeds import Seeds
from tests.contract.test_store_beat import ATTEMPT, SEAM, agrees, claimed, entry, later, text
from tokenspool import tables as t
from tokenspool.database import Database, DatabaseError, retrying
from tokenspool.model import Completed, Entry, Job
from tokenspool.store import beat_rows, claims
from tokenspool.store.beat import commit_beat


@pytest.fixture
def database_url(shared_postgresql: str) -> str:
    """Give the URL of an empty database; these promises are PostgreSQL's alone."""
    database = Database(shared_postgresql)
    with database.write() as connection:
        names = ", ".join(table.name for table in t.metadata.sorted_tables)
        connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY"))
    database.close()
    return shared_postgresql


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


@pytest.fixture
def other(database_url: str) -> Iterator[Database]:
    """Give a second process's view of the same database."""
    database = Database(database_url)
    yield database
    database.close()


def whole(jobs: list[Job]) -> list[Entry]:
    """Make a beat with rows for every table."""
    done = Completed(finish="stop")
    return [entry(job, b"text", ending=done, seams=(SEAM,), attempts=(ATTEMPT,)) for job in jobs]


def kill(killer: Database, pid: int) -> None:
    """End a server process and wait until it is gone."""
    with killer.engine.connect() as connection:
        gone = sa.text("SELECT pg_terminate_backend(:pid, 10000)")
        assert connection.execute(gone, {"pid": pid}).scalar()


# --- the connection -------------------------------------------------------------------------------
def test_a_beat_whose_connection_dies_at_any_step_is_repeated_whole(
    seeds: Seeds, other: Database
) -> None:
    """It says "not now"; nothing of it stands, and the next try commits it once."""
    steps = 0
    while True:
        jobs = claimed(seeds, f"a{steps}", f"b{steps}")
        beat = whole(jobs)
        left = steps

        def after(connection: sa.Connection, *_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                driver: Any = connection.connection.driver_connection
                kill(other, driver.info.backend_pid)

        sa.event.listen(seeds.database.engine, "after_cursor_execute", after)
        failed: DatabaseError | None = None
        try:
            commit_beat(seeds.database, beat)
        except DatabaseError as error:
            failed = error
        finally:
            sa.event.remove(seeds.database.engine, "after_cursor_execute", after)
        if steps and left > 0:
            break  # every step has been the last one once
        if failed:
            assert failed.passing
            assert text(seeds, jobs[0]) == b""
            assert commit_beat(seeds.database, beat) == frozenset()
        assert (failed is not None) == (steps > 0)
        assert [text(seeds, job) for job in jobs] == [b"text"] * 2
        steps += 1

    assert steps > 6
    assert len(seeds.rows(t.attempt)) == len(seeds.rows(t.seam)) == 2 * (steps + 1)
    agrees(seeds)


@pytest.mark.parametrize("rows", ["segment_rows", "attempt_rows"])
def test_a_connection_that_dies_in_the_middle_of_a_copy_is_made_again(
    seeds: Seeds, other: Database, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    """SQLAlchemy knows no COPY: that the connection is dead must be told to its pool."""
    jobs = claimed(seeds, "a", "b")
    beat = whole(jobs)
    pids: list[int] = []

    class Deadly(list[Any]):
        """Rows that kill the connection once the first is read."""

        def __iter__(self) -> Iterator[Any]:
            for number, row in enumerate(super().__iter__()):
                if number == 1:
                    kill(other, pids[-1])
                yield row

    def begun(connection: sa.Connection, *_: Any) -> None:
        driver: Any = connection.connection.driver_connection
        pids.append(driver.info.backend_pid)

    sa.event.listen(seeds.database.engine, "before_cursor_execute", begun)
    made = getattr(beat_rows, rows)
    with monkeypatch.context() as patch:
        patch.setattr(beat_rows, rows, lambda entries: Deadly(made(entries)))
        with pytest.raises(DatabaseError) as caught:
            commit_beat(seeds.database, beat)

    assert caught.value.passing
    assert commit_beat(seeds.database, beat) == frozenset()
    assert len(set(pids)) == 2
    assert [text(seeds, job) for job in jobs] == [b"text"] * 2
    agrees(seeds)


@pytest.mark.parametrize("taken", [False, True])
def test_a_commit_whose_answer_is_lost_counts_once(
    seeds: Seeds, database_url: str, *, taken: bool
) -> None:
    """The server has committed and nobody heard it: the second call finds it there."""
    jobs = claimed(seeds, "a", "b")
    beat = [*whole(jobs[:1]), entry(jobs[1], b"text")]
    with Deaf(sa.make_url(database_url)) as deaf:
        database = Database(deaf.url.render_as_string(hide_password=False))
        with database.read() as connection:
            connection.execute(sa.text("SELECT 1"))
        deaf.lose(b"COMMIT\0")
        with pytest.raises(DatabaseError) as caught:
            commit_beat(database, beat)
        database.close()
    assert caught.value.passing
    assert deaf.lost
    assert [text(seeds, job) for job in jobs] == [b"text"] * 2
    if taken:
        with seeds.database.write() as connection:
            claims.reclaim(connection, dead=None, max_crashes=9)

    lost = commit_beat(seeds.database, beat)

    # A complete job keeps its epoch when its owner dies; a running one is another claim's now.
    assert lost == ({jobs[1].owner_key} if taken else frozenset())
    assert len(seeds.rows(t.segment)) == 2
    agrees(seeds)


# --- others at the same rows ----------------------------------------------------------------------
@pytest.mark.parametrize("against", ["a beat", "a reclaim"])
def test_opposite_orders_are_no_deadlock(seeds: Seeds, other: Database, against: str) -> None:
    """Both stand before a row in the middle when it becomes free: neither holds what is next."""
    jobs = claimed(seeds, *(f"job{n:02}" for n in range(9)))
    failures: list[BaseException] = []
    begin = threading.Barrier(2)
    beat = [entry(job, b"x") for job in (reversed(jobs) if against == "a reclaim" else jobs)]
    again = [entry(job, b"y") for job in reversed(jobs)]
    acts: list[Callable[[], Any]] = [
        lambda: commit_beat(seeds.database, beat),
        (lambda: commit_beat(other, again)) if against == "a beat" else lambda: _reclaim(other),
    ]
    threads = [threading.Thread(target=_kept, args=(failures, begin, act)) for act in acts]

    with seeds.database.write() as connection:
        middle = sa.select(t.checkpoint).where(t.checkpoint.c.job_id == jobs[4].id)
        connection.execute(middle.with_for_update())
        for thread in threads:
            thread.start()
        _until_waiting(seeds.database, 2)
    for thread in threads:
        thread.join(60)

    assert failures == []
    agrees(seeds)


def test_beats_and_claims_of_the_same_jobs_do_not_shoot_each_other(
    seeds: Seeds, other: Database
) -> None:
    """In opposite orders and over and over: all lock in one order, so nobody is a deadlock's."""
    taken = claimed(seeds, *(f"job{n:02}" for n in range(40)))
    failures: list[BaseException] = []
    for turn in range(12):
        begin = threading.Barrier(3)
        first = [entry(job, b"x", seams=(SEAM,)) for job in taken]
        # A zombie of the same claims: whoever comes second has lost.
        second = [entry(job, b"yz", attempts=(ATTEMPT,)) for job in reversed(taken)]
        random.Random(turn).shuffle(second)
        acts: list[Callable[[], Any]] = [
            lambda beat=first: _beats(seeds.database, beat),  # type: ignore[misc]
            lambda beat=second: _beats(other, beat),  # type: ignore[misc]
            lambda: _reclaim(other),
        ]
        threads = [threading.Thread(target=_kept, args=(failures, begin, act)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        _reclaim(other)
        taken = seeds.claim()
        assert len(taken) == 40
        assert all(len(text(seeds, job)) == job.checkpoint.text for job in taken)
    assert failures == []
    agrees(seeds)


def _beats(database: Database, beat: list[Entry]) -> None:
    for _ in range(10):
        lost = commit_beat(database, beat)
        beat = [entry(later(e.job, e), b"x") for e in beat if e.job.owner_key not in lost]
        random.Random(len(beat)).shuffle(beat)


def _reclaim(database: Database) -> None:
    with database.write() as connection:
        claims.reclaim(connection, dead=None, max_crashes=999)


def _kept(failures: list[BaseException], begin: threading.Barrier, act: Callable[[], Any]) -> None:
    try:
        begin.wait(30)
        act()
    except BaseException as error:  # noqa: BLE001 - shown by the test
        failures.append(error)


def test_a_server_that_serialises_is_asked_again(seeds: Seeds, database_url: str) -> None:
    """Where every transaction is serialisable, one of two is refused, and repeated whole."""
    (job,) = claimed(seeds, "a")
    options = {"options": "-c default_transaction_isolation=serializable"}
    url = sa.make_url(database_url).update_query_dict(options)
    strict = Database(url.render_as_string(hide_password=False))
    made = entry(job, b"text")
    refused: list[DatabaseError] = []

    with seeds.database.write() as connection:
        connection.execute(sa.update(t.checkpoint).values(stalls=1))
        waiting = threading.Event()

        def beat() -> None:
            try:
                commit_beat(strict, [made])
            except DatabaseError as error:
                refused.append(error)

        def locking(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "FOR UPDATE" in statement:
                waiting.set()

        sa.event.listen(strict.engine, "before_cursor_execute", locking)
        thread = threading.Thread(target=beat)
        thread.start()
        assert waiting.wait(30)
        _until_waiting(seeds.database, 1)
    thread.join(30)

    assert [error.passing for error in refused] == [True]
    assert retrying(lambda: commit_beat(strict, [made])) == frozenset()
    strict.close()
    assert text(seeds, job) == b"text"
    agrees(seeds)


def _until_waiting(database: Database, count: int) -> None:
    """Return once so many transactions wait for somebody's row."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if connection.execute(waiting).scalar_one() >= count:
                return
    pytest.fail("nobody came to wait for a row")


# --- refused data ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "wrong",
    ["a NUL", "half a character", "too long", "a NUL in a record", "too long a record"],
)
def test_text_that_is_refused_is_the_rows_own_fault(seeds: Seeds, wrong: str) -> None:
    """The journal splits such a beat; as a trouble of the database it would stop everybody."""
    good, bad = claimed(seeds, "good", "bad")
    made = entry(bad, b"x")
    match wrong:
        case "a NUL":
            made = replace(made, after=replace(made.after, cursor="a\0b"))
        case "half a character":
            made = replace(made, after=replace(made.after, cursor="\ud83d"))
        case "too long":
            made = replace(made, after=replace(made.after, strategy="x" * 21))
        case "a NUL in a record":
            made = replace(made, attempts=(changed(ATTEMPT, outcome="a\0b"),))
        case _:
            made = replace(made, attempts=(changed(ATTEMPT, outcome="x" * 21),))

    with pytest.raises((sa.exc.StatementError, ValueError)) as caught:
        commit_beat(seeds.database, [entry(good, b"g"), made])

    assert not isinstance(caught.value, sa.exc.OperationalError)
    assert text(seeds, good) == b""
    assert commit_beat(seeds.database, [entry(good, b"g")]) == frozenset()
    assert text(seeds, good) == b"g"
    agrees(seeds)
