"""Answers and connections that are lost on the way: nothing is doubled, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.desk import OPTIONS, QUICK, Desk, many, prompts
from tokenspool.database import Database, DatabaseError, retrying
from tokenspool.errors import Unavailable
from tokenspool.inputs import BadLine, JobSpec
from tokenspool.store.intake import enqueue, rows


def test_an_insert_whose_answer_was_lost_may_be_repeated(desk: Desk) -> None:
    """The rows are ours already: nothing is doubled. Somebody else's rows are no success."""
    desk.take(*prompts("a"))
    (row,) = desk.rows()
    new = tuple(row[name] for name in rows._EACH)
    shared = {name: row[name] for name in rows._SHARED}

    with desk.database.write() as connection:
        rows.insert(connection, [new], shared, again=True)
    for theirs, again in ((shared | {"intake_id": 77}, True), (shared, False)):
        with (
            pytest.raises(Unavailable, match="another process"),
            desk.database.write() as connection,
        ):
            rows.insert(connection, [new], theirs, again=again)

    assert desk.ids() == ["a"]


def test_a_commit_whose_answer_is_lost_is_settled(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes between the commit and its answer: each job is there once."""
    original, lost = Database.write, iter([False, False, True])

    @contextmanager
    def write(database: Database) -> Iterator[sa.Connection]:
        with original(database) as connection:
            yield connection
        if next(lost, False):
            raise DatabaseError(database.name, "the connection is gone", passing=True)

    monkeypatch.setattr(Database, "write", write)

    assert desk.take(*prompts("a", "b")).new == 2
    assert next(lost, None) is None
    assert desk.ids() == ["a", "b"]
    assert desk.claim() == ["a", "b"]


def kill_sessions(database: Database) -> None:
    """Let the server end every session of this database, as a restart would."""
    sessions = sa.text(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    url = database.url.render_as_string(hide_password=False)
    with closing(Database(url)) as other, other.read() as connection:
        connection.execute(sessions)


# Only there is a server that can go away.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_server_that_goes_away_between_two_steps_is_found_again(desk: Desk) -> None:
    """Every connection is lost, the lock's as well; nobody else was there, so all is taken."""

    def lines() -> Iterator[JobSpec | BadLine]:
        yield from desk.lines(*many(1_000))
        kill_sessions(desk.database)
        yield from desk.lines(*prompts("a"), name="two")

    answer = enqueue(desk.database, "b", "/out", lines(), OPTIONS, listener=QUICK)

    assert answer.new == 1_001
    assert desk.pending() == 1_001


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_server_that_goes_away_within_a_copy_is_worth_another_try(desk: Desk) -> None:
    """What the driver raises inside a COPY is understood as a database that may come back."""
    desk.take(*prompts("a"))
    (row,) = desk.rows()
    columns = (*rows._SHARED, *rows._EACH)

    def endless() -> Iterator[tuple[Any, ...]]:
        kill_sessions(desk.database)
        while True:
            yield tuple(row[name] for name in columns)

    with pytest.raises(DatabaseError) as caught, desk.database.write() as connection:
        rows._copy(connection, endless())

    assert caught.value.passing
    assert retrying(desk.ids) == ["a"]
