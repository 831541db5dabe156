"""Counts over SQLite and PostgreSQL: always what the rows say, folded or not, by whoever writes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.model import JobState
from tokenspool.store import reads
from tokenspool.store.counts import FOLD_AT, Tally, fold_counts


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def count(seeds: Seeds, *, jobs: int = 1, batch_id: int = 1, data: int = 0) -> None:
    """Write the deltas of one transaction."""
    with seeds.database.write() as connection:
        _tally(jobs, batch_id, data).write(connection)


def _tally(jobs: int, batch_id: int, data: int) -> Tally:
    tally = Tally()
    tally.move(batch_id, None, JobState.PENDING, jobs)
    if data:
        tally.grow(batch_id, data=data, generated=data, needed=data, rebilled=1)
    return tally


def fold(seeds: Seeds) -> bool:
    """Fold."""
    with seeds.database.write() as connection:
        return fold_counts(connection)


def pending(seeds: Seeds, batch: int | None = None) -> int:
    """Give how many jobs are pending."""
    with seeds.database.read() as connection:
        return reads.counts(connection, batch=batch).jobs[JobState.PENDING]


def deltas(seeds: Seeds) -> int:
    """Give how many rows there are."""
    return len(seeds.rows(t.job_count))


def test_a_transaction_writes_one_row_per_batch_and_state(seeds: Seeds) -> None:
    """However many jobs it moves; what cancels out is not written."""
    tally = Tally()
    for _ in range(100):
        tally.move(1, JobState.PENDING, JobState.RUNNING)
    tally.move(2, JobState.RUNNING, JobState.PENDING)
    tally.move(2, JobState.PENDING, JobState.RUNNING)
    tally.grow(1, data=5, generated=4, needed=3, rebilled=2)
    tally.grow(1, data=-2)
    with seeds.database.write() as connection:
        tally.write(connection)
        tally.write(connection)  # it is empty now

    rows = {
        (row["batch_id"], row["state"]): (row["jobs"], row["bytes"], row["generated"])
        for row in seeds.rows(t.job_count)
    }
    assert rows == {(1, "pending"): (-100, 0, 0), (1, "running"): (100, 0, 0), (1, ""): (0, 3, 4)}


def test_few_deltas_are_left_alone(seeds: Seeds) -> None:
    """Reading them is cheap still."""
    for _ in range(5):
        count(seeds)

    assert not fold(seeds)
    assert deltas(seeds) == 5


def test_folding_keeps_every_sum(seeds: Seeds) -> None:
    """One row per batch and state is left."""
    for number in range(FOLD_AT + 4):
        count(seeds, jobs=number % 5, batch_id=1 + number % 2, data=number)
    with seeds.database.read() as connection:
        before = [reads.counts(connection, batch=batch) for batch in (None, 1, 2)]

    assert fold(seeds)

    with seeds.database.read() as connection:
        assert [reads.counts(connection, batch=batch) for batch in (None, 1, 2)] == before
    assert deltas(seeds) == 4


def test_many_batches_are_not_folded_for_nothing(seeds: Seeds) -> None:
    """Where every batch has its own row already there is nothing to save."""
    with seeds.database.write() as connection:
        for batch_id in range(FOLD_AT + 10):
            _tally(1, batch_id, 0).write(connection)

    assert not fold(seeds)


def test_what_cancels_out_leaves_no_row(seeds: Seeds) -> None:
    """A batch that is through does not stay in every sum for ever."""
    for number in range(FOLD_AT + 2):
        count(seeds, jobs=1 if number % 2 else -1)

    assert fold(seeds)
    assert deltas(seeds) == 0


def test_counts_beyond_32_bits_are_folded_too(seeds: Seeds) -> None:
    """A million jobs of a megabyte are more bytes than that."""
    for _ in range(FOLD_AT):
        count(seeds, data=2**40)

    assert fold(seeds)

    with seeds.database.read() as connection:
        assert reads.counts(connection).bytes == FOLD_AT * 2**40


@pytest.fixture
def before_deleting(seeds: Seeds) -> Iterator[list[Any]]:
    """Give a list of things to do just before rows are deleted."""
    todo: list[Any] = []

    def execute(_c: Any, _k: Any, statement: str, *_: Any) -> None:
        while statement.lstrip().upper().startswith("DELETE") and todo:
            todo.pop()()

    sa.event.listen(seeds.database.engine, "before_cursor_execute", execute)
    yield todo
    sa.event.remove(seeds.database.engine, "before_cursor_execute", execute)


def test_a_delta_that_commits_during_a_fold_is_not_lost(
    seeds: Seeds, before_deleting: list[Any]
) -> None:
    """Its id was given out before, so it lies among those that are folded."""
    with contextlib.ExitStack() as stack:
        if seeds.database.kind == "sqlite":
            count(seeds, jobs=1000)  # there, nobody else can be in the middle of a transaction
        else:
            connection = stack.enter_context(seeds.database.engine.connect())
            _tally(1000, 1, 0).write(connection)
            before_deleting.append(connection.commit)
        for _ in range(FOLD_AT + 1):
            count(seeds)

        assert fold(seeds)

    assert before_deleting == []
    assert pending(seeds) == 1000 + FOLD_AT + 1


def test_folds_and_writers_at_the_same_time_keep_every_sum(seeds: Seeds) -> None:
    """Every worker of a fleet folds, and every beat writes."""
    for _ in range(FOLD_AT):
        count(seeds)
    begin, failures = threading.Barrier(4), list[BaseException]()

    def write() -> None:
        begin.wait()
        for _ in range(40):
            count(seeds)

    def folds() -> None:
        begin.wait()
        for _ in range(20):
            fold(seeds)

    def kept(act: Any) -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=kept, args=(act,)) for act in (write, write, folds, folds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert pending(seeds) == FOLD_AT + 80
