"""What a large enqueue does beside the reading of its lines, and after it, on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.desk import OPTIONS, Desk, many, prompts
from tokenspool import migrate
from tokenspool.database import Database
from tokenspool.inputs import BadLine, JobSpec
from tokenspool.store.intake import Enqueued, Listener, analysing, enqueue, rows

STATISTICS = sa.text("SELECT count(*) FROM pg_stats WHERE tablename = 'job'")
there = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def known(desk: Desk) -> int:
    """Give of how many columns the planner knows something."""
    with desk.database.read() as connection:
        return int(connection.execute(STATISTICS).scalar_one())


@pytest.fixture
def unknown(new_postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Give a place where ten jobs are many, and nothing is known of any."""
    monkeypatch.setattr(analysing, "MANY", 10)
    database = Database(new_postgresql)
    migrate.upgrade(database)
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE job SET (autovacuum_enabled = false)"))
    yield Desk(database, tmp_path)
    database.close()


@there
def test_lines_are_read_and_reported_on_the_thread_that_asked(desk: Desk) -> None:
    """They may come from anywhere, and whoever listens need not know of threads."""
    threads = set()

    def note(*_: object) -> None:
        threads.add(threading.current_thread())

    def lines() -> Iterator[JobSpec | BadLine]:
        for line in desk.lines(*many(3_000), {"custom_id": "bad"}):
            note()
            yield line

    listener = Listener(report=note, progress=note)
    answer = enqueue(desk.database, "b", "/out", lines(), OPTIONS, listener=listener)

    assert answer.invalid == 1
    assert threads == {threading.current_thread()}


@there
def test_lines_of_a_new_batch_are_looked_up_only_once_two_are_alike(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else can be in the way of the first; then each is, as in a batch that was there."""
    asked: list[int] = []
    look_up = rows._look_up

    def count(connection: sa.Connection, *args: Any) -> list[rows.Existing]:
        asked.append(len(args[-1]))
        return look_up(connection, *args)

    monkeypatch.setattr(rows, "_look_up", count)

    assert desk.take(*many(3_000)).new == 3_000
    assert sum(asked) == 0

    answer = desk.take(*prompts("a"), *many(3_000), *prompts("a"), batch="two", root="/two")
    assert (answer.new, answer.same) == (3_001, 1)
    assert 0 < sum(asked) < 6_000


@there
def test_nothing_is_written_any_more_when_somebody_fails(desk: Desk) -> None:
    """What was under way has ended before the failure is dealt with."""

    def fail(_: Enqueued) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as failure:
        desk.take(*many(2_500), listener=Listener(progress=fail))

    # The failure is still held, and with it all that was under way.
    assert failure.traceback
    assert not [one for one in threading.enumerate() if one.name.startswith("enqueue")]


def test_the_planner_learns_of_many_new_jobs_at_once(unknown: Desk) -> None:
    """Of a few it need not."""
    unknown.take(*many(9))
    assert known(unknown) == 0

    unknown.take(*many(20), batch="two", root="/two")
    assert known(unknown) > 0


def test_an_enqueue_is_done_though_the_planner_cannot_learn(unknown: Desk) -> None:
    """Somebody holds the lock for it, as a vacuum does; it is no more than a help."""
    with unknown.database.write() as other:
        other.execute(sa.text("LOCK TABLE job IN SHARE UPDATE EXCLUSIVE MODE"))

        answer = unknown.take(*many(20))

    assert answer.accepted
    assert unknown.pending() == 20
    assert known(unknown) == 0
