"""Enqueues beside others, after dead ones, and on a database that is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa

from tests.contract.desk import OPTIONS, QUICK, Desk, many, prompts
from tokenspool import tables as t
from tokenspool.database import Database, DatabaseError
from tokenspool.errors import Unavailable
from tokenspool.inputs import BadLine, JobSpec
from tokenspool.store.intake import Enqueued, Listener, enqueue
from tokenspool.store.intake.hidden import Hidden, sweep
from tokenspool.store.intake.place import Place
from tokenspool.store.intake.turns import Turns


def test_two_enqueues_take_turns(desk: Desk, database_url: str) -> None:
    """The second one says that it waits, and then takes its jobs: none is swept away."""
    waits, goes_on = threading.Event(), threading.Event()
    answers: list[Enqueued] = []

    def second() -> None:
        with closing(Database(database_url)) as database:
            listener = Listener(waiting=waits.set, pause=lambda _: None)
            other = Desk(database, desk.folder)
            answers.append(other.take(*prompts("z"), name="two", listener=listener))

    def lines() -> Iterator[JobSpec | BadLine]:
        yield from desk.lines(*many(1_500))
        thread.start()
        assert waits.wait(30)
        goes_on.set()

    thread = threading.Thread(target=second)
    first = enqueue(desk.database, "b", "/out", lines(), OPTIONS, listener=QUICK)
    thread.join()

    assert goes_on.is_set()
    assert (first.new, answers[0].new) == (1_500, 1)
    assert desk.pending() == 1_501


def test_a_busy_database_is_waited_for(desk: Desk, database_url: str) -> None:
    """Somebody else's long transaction delays an enqueue and does not end it."""
    began, release = threading.Event(), threading.Event()

    def hold() -> None:
        with closing(Database(database_url)) as other, other.write() as connection:
            connection.execute(t.audit.insert().values(_AUDIT))
            began.set()
            assert release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert began.wait(30)
    timer = threading.Timer(0.3, release.set)
    timer.start()

    answer = desk.take(*prompts("a"))

    holder.join()
    timer.join()
    assert answer.new == 1


_AUDIT = {"at": 0.0, "who": "w", "action": "a", "scope": "", "jobs": 0}


def test_what_an_enqueue_left_behind_is_removed_by_the_next(desk: Desk) -> None:
    """Hidden rows of one that died: never run, never counted, gone with the next one."""
    desk.take(*prompts("a"))

    def dies() -> Iterator[JobSpec | BadLine]:
        yield from desk.lines(*many(2_500), name="two")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enqueue(desk.database, "dead", "/dead", dies(), OPTIONS, listener=QUICK)
    left = len(desk.ids())
    claimed = desk.claim()

    answer = desk.take(*many(3), name="three")

    assert left > 1_000
    assert claimed == ["a"]
    assert (answer.new, desk.ids()) == (3, ["a", "job-00000", "job-00001", "job-00002"])
    assert [row["name"] for row in desk.rows(t.batch)] == ["b"]
    assert [row["root"] for row in desk.rows(t.output)] == ["/out"]
    assert desk.pending() == 3


def wait_for_rows(desk: Desk) -> None:
    """Wait until the first lines are written, which a thread of its own may be at."""
    for _ in range(600):
        if desk.ids():
            return
        time.sleep(0.05)
    pytest.fail("no line was written")


@pytest.mark.parametrize("lines_after", [0, 1_500])
def test_an_enqueue_that_was_taken_for_dead_takes_nothing(desk: Desk, lines_after: int) -> None:
    """Its lock lost, its rows swept by another: it reveals nothing and adds nothing."""

    def swept() -> Iterator[JobSpec | BadLine]:
        yield from desk.lines(*many(1_500))
        wait_for_rows(desk)
        sweep(Turns(desk.database, lambda _: None))
        yield from desk.lines(*prompts(*map(str, range(lines_after))), name="two")

    with pytest.raises(Unavailable, match="try again"):
        enqueue(desk.database, "b", "/out", swept(), OPTIONS, listener=QUICK)

    assert desk.ids() == []
    assert desk.pending() == 0


# No sweep can begin while SQLite's file lock is held, so nobody looks for one there.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_enqueue_that_is_being_swept_reveals_nothing(desk: Desk) -> None:
    """A sweep may have taken some rows and not yet the rest: all or nothing."""
    hidden = Hidden(Turns(desk.database, lambda _: None), Place(desk.database, "b", "/out"))
    hidden.add([line for line in desk.lines(*many(3)) if isinstance(line, JobSpec)], OPTIONS)
    with desk.database.write() as connection:
        connection.execute(sa.delete(t.job).where(t.job.c.custom_id == "job-00001"))

    with pytest.raises(Unavailable, match="try again"):
        hidden.reveal()

    assert desk.claim() == []


def test_a_reveal_whose_answer_was_lost_may_be_repeated(desk: Desk) -> None:
    """The jobs are counted once."""
    hidden = Hidden(Turns(desk.database, lambda _: None), Place(desk.database, "b", "/out"))
    hidden.add([line for line in desk.lines(*many(3)) if isinstance(line, JobSpec)], OPTIONS)

    hidden.reveal()
    hidden.reveal()

    assert desk.pending() == 3


def test_small_enqueues_into_a_batch_share_one_intake(desk: Desk) -> None:
    """A claim looks at each intake of a batch: a service may enqueue its jobs one by one."""
    for number in range(6):
        desk.take(*prompts(f"job{number}"), name=f"in{number}")
    desk.take(*prompts("other"), batch="other", name="other", root="/other")

    of_batches = {row["custom_id"]: row["intake_id"] for row in desk.rows()}
    assert len({of_batches[f"job{number}"] for number in range(6)}) == 1
    assert of_batches["other"] != of_batches["job0"]
    assert len(desk.rows(t.intake)) <= 4
    assert desk.pending() == 7
    claimed = desk.claim()
    assert [name for name in claimed if name != "other"] == [f"job{n}" for n in range(6)]


def test_small_enqueues_stay_behind_a_large_one(desk: Desk) -> None:
    """They join the last that came before, so that the order of the batch is kept."""
    desk.take(*prompts("first"), name="first")
    desk.take(*many(1_200), name="large")
    desk.take(*prompts("last"), name="last")

    intakes = [row["intake_id"] for row in desk.rows()]
    assert intakes == sorted(intakes)
    assert len(set(intakes)) == 2
    claimed = desk.claim()
    assert (claimed[0], claimed[-1], len(claimed)) == ("first", "last", 1_202)


def test_a_small_enqueue_whose_commit_was_not_answered_is_there_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds that its jobs have joined the others, and is content."""
    desk.take(*prompts("before"), name="before")
    reveal = Hidden._reveal
    tries: list[int] = []

    def unanswered(self: Hidden, connection: sa.Connection) -> None:
        reveal(self, connection)
        if not tries:
            tries.append(1)
            connection.commit()
            raise DatabaseError("the database", "connection lost", passing=True)

    monkeypatch.setattr(Hidden, "_reveal", unanswered)
    answer = desk.take(*prompts("a", "b"), name="again")

    assert (answer.accepted, answer.new, desk.pending()) == (True, 2, 3)
    assert desk.claim() == ["before", "a", "b"]
