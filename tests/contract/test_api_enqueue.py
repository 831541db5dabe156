"""A service that enqueues, by itself or in its own transaction, over SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import tokenspool
from tests.contract.seeds import Seeds
from tokenspool import database as databases
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.errors import Unavailable, UsageError
from tokenspool.inputs import InputDefaults, read_documents
from tokenspool.store.intake import JobOptions, Listener, enqueue
from tokenspool.store.intake.lock import alone

ASKED: dict[str, Any] = {
    "batch": "b",
    "output": "/out",
    "base_url": "http://x/v1",
    "model": "m",
}


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to look into."""
    return Seeds(database=database, root=tmp_path)


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def own(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """Give a service's own engine, with a table of its own in the same database."""
    # The one process of this test never writes through two connections at once.
    monkeypatch.setattr("tokenspool.store.intake.joined.sqlite_is_safe", lambda: True)
    engine = sa.create_engine(database.url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE orders (number INTEGER)"))
    yield engine
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE orders"))
    engine.dispose()


def jobs(*names: str, **fields: object) -> list[dict[str, object]]:
    """Give jobs in the short form."""
    return [{"custom_id": name, "prompt": f"about {name}"} | fields for name in names]


def names(seeds: Seeds) -> list[str]:
    """Give the jobs that anybody would claim."""
    with seeds.database.read() as connection:
        hidden = sa.select(t.intake.c.id).where(~t.intake.c.revealed)
        seen = sa.select(t.job.c.custom_id).where(t.job.c.intake_id.not_in(hidden))
        return sorted(connection.execute(seen).scalars())


def counted(database: Database, batch: str = "b") -> int:
    """Give how many jobs of the batch the counts know."""
    with tokenspool.open_batch(batch, db=database) as found:
        return found.counts().total


# --- by itself ----------------------------------------------------------------------------------
def test_jobs_are_taken_in_both_forms_with_their_ids_in_order(
    database: Database, seeds: Seeds
) -> None:
    """What the command takes from a line, a call takes from a mapping."""
    line = {"custom_id": "z", "method": "POST", "url": "/v1/chat/completions"}
    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 1}
    given: list[dict[str, object]] = [
        {**line, "body": body},
        *jobs("a", priority=3),
        {"prompt": "no name"},
    ]

    taken = tokenspool.enqueue(given, db=database, **ASKED)

    rows = {row["custom_id"]: row for row in seeds.rows(t.job)}
    assert taken == tokenspool.Enqueued(
        batch="b", ids=tuple(rows[n]["id"] for n in ("z", "a", "jobs-00003")), new=3, same=0
    )
    assert rows["a"]["priority"] == 3
    assert rows["a"]["name"] == "a.md"
    assert counted(database) == 3


def test_a_call_may_be_repeated(database: Database, seeds: Seeds) -> None:
    """The same custom_id with the same content is the same job; its options are those of now."""
    first = tokenspool.enqueue(jobs("a", "b"), db=database, **ASKED)
    again = tokenspool.enqueue(jobs("b", "c", "a", "b"), db=database, **ASKED)
    other = tokenspool.enqueue(jobs("a"), db=database, priority=7, **ASKED)

    assert (again.new, again.same, again.updated) == (1, 3, 0)
    assert again.ids[0] == again.ids[3] == first.ids[1]
    assert (other.ids, other.new, other.same, other.updated) == (first.ids[:1], 0, 1, 1)
    assert seeds.row("a")["priority"] == 7


def test_every_bad_job_is_named_by_its_index_and_none_is_taken(
    database: Database, seeds: Seeds
) -> None:
    """The same checks as for a line; what JSON cannot say is refused, not bent."""
    bad: list[Any] = [
        {"prompt": ""},
        {"prompt": "x", "params": {"temperature": float("nan")}},
        {"prompt": "x", "metadata": {"at": datetime.now(UTC)}},
        "a prompt",
        {"prompt": "half \ud83d"},
        {"prompt": "x", "custom_id": "a/b"},
    ]
    with pytest.raises(UsageError) as caught:
        tokenspool.enqueue([*jobs("good"), *bad], db=database, **ASKED)

    assert str(caught.value).startswith("6 of 7 jobs cannot be taken, so none was: ")
    for sentence in (
        "jobs[1]: the prompt is empty",
        "jobs[2]: it cannot be written as JSON",
        "jobs[3]: it cannot be written as JSON",
        "jobs[4]: a job is a mapping of fields; this one is of the type str",
        "jobs[5]: it has half of a surrogate pair",
        "; and 1 more",
    ):
        assert sentence in str(caught.value)
    assert names(seeds) == []
    assert seeds.rows(t.endpoint) == []


def test_another_request_under_the_same_name_is_refused(database: Database, seeds: Seeds) -> None:
    """With both named: the index of the one, and what the other was called by."""
    tokenspool.enqueue(jobs("a"), db=database, **ASKED)

    with pytest.raises(UsageError, match=r"jobs\[1\]: custom_id 'a' is already the job of jobs:1"):
        tokenspool.enqueue([*jobs("b"), {"custom_id": "a", "prompt": "else"}], db=database, **ASKED)

    assert names(seeds) == ["a"]


def test_an_unknown_field_is_a_warning(database: Database) -> None:
    """It may be a slip of the pen."""
    with pytest.warns(UserWarning, match="jobs:1: the field 'promt' is not known"):
        tokenspool.enqueue(jobs("a", promt="x"), db=database, **ASKED)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"output": "s4://x"}, "there is no s4://"),
        ({"output": "s3://x?secret"}, "a bucket and a prefix only"),
        ({"output": Path("s3://xyz")}, "give it as a string"),
        ({"resume": "never"}, "there is no strategy 'never'; there are: auto"),
        ({"base_url": "x"}, "the base URL must begin with http"),
        ({"batch": "a/b"}, "slash"),
        ({"max_attempts": 0}, "max_attempts"),
    ],
)
def test_wrong_options_are_refused(
    database: Database, options: dict[str, Any], sentence: str
) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=sentence):
        tokenspool.enqueue(jobs("a"), db=database, **(ASKED | options))


# --- in the caller's transaction ----------------------------------------------------------------
@pytest.mark.parametrize("commit", [True, False])
def test_jobs_come_and_go_with_the_callers_transaction(
    database: Database, seeds: Seeds, own: sa.Engine, *, commit: bool
) -> None:
    """An order and its job are both there, or neither; until then nobody sees the job."""
    with own.connect() as connection:
        connection.execute(sa.text("INSERT INTO orders VALUES (7)"))
        taken = tokenspool.enqueue(jobs("a", "b"), connection=connection, **ASKED)
        assert (taken.new, len(taken.ids)) == (2, 2)
        assert names(seeds) == []
        connection.commit() if commit else connection.rollback()

    with own.connect() as connection:
        orders = connection.execute(sa.text("SELECT count(*) FROM orders")).scalar()
    assert (orders, names(seeds)) == ((1, ["a", "b"]) if commit else (0, []))
    if commit:
        assert counted(database) == 2
    else:
        assert [seeds.rows(table) for table in (t.batch, t.intake, t.endpoint, t.job_count)] == [
            []
        ] * 4


def test_a_session_and_a_transaction_that_only_enqueues(
    database: Database, seeds: Seeds, own: sa.Engine
) -> None:
    """Also where nothing was written before: a driver that begins late must not commit for us."""
    with Session(own) as session:
        tokenspool.enqueue(jobs("a"), connection=session.connection(), **ASKED)
        session.rollback()
    assert names(seeds) == []

    with Session(own) as session, session.begin():
        tokenspool.enqueue(jobs("a"), connection=session.connection(), **ASKED)
        tokenspool.enqueue(jobs("a", "b"), connection=session.connection(), **ASKED)
    assert names(seeds) == ["a", "b"]
    assert counted(database) == 2


def test_a_transaction_of_ours_does_for_whoever_has_none(database: Database, seeds: Seeds) -> None:
    """Committed at its end, undone by an exception."""
    with tokenspool.transaction(db=database) as connection:
        tokenspool.enqueue(jobs("a"), connection=connection, **ASKED)
    with contextlib.suppress(ZeroDivisionError), tokenspool.transaction(db=database) as connection:
        tokenspool.enqueue(jobs("b"), connection=connection, **ASKED)
        _ = 1 / 0

    assert names(seeds) == ["a"]


def test_what_is_refused_leaves_the_callers_transaction_as_it_was(
    seeds: Seeds, own: sa.Engine
) -> None:
    """It may go on, and try again."""
    with own.connect() as connection:
        connection.execute(sa.text("INSERT INTO orders VALUES (7)"))
        with pytest.raises(UsageError, match=r"jobs\[1\]: the prompt is empty"):
            tokenspool.enqueue([*jobs("a"), {"prompt": ""}], connection=connection, **ASKED)
        assert connection.execute(sa.select(sa.func.count()).select_from(t.job)).scalar() == 0
        tokenspool.enqueue(jobs("c"), connection=connection, **ASKED)
        connection.commit()

    assert names(seeds) == ["c"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_transaction_keeps_its_planner(database: Database, own: sa.Engine) -> None:
    """What our look-ups set for themselves is not left to the caller's own queries."""
    tokenspool.enqueue(jobs("a"), db=database, **ASKED)
    with own.connect() as connection:
        tokenspool.enqueue(jobs("a"), connection=connection, **ASKED)
        assert connection.execute(sa.text("SHOW enable_seqscan")).scalar() == "on"


def test_what_a_killed_enqueue_left_is_not_taken_for_ours(
    database: Database, seeds: Seeds, own: sa.Engine
) -> None:
    """Its hidden rows will be swept: to call them there already would lose the jobs."""
    seeds.enqueue("a", hidden=True)

    with own.begin() as connection:
        taken = tokenspool.enqueue(jobs("a"), connection=connection, **ASKED)

    assert (taken.new, taken.same) == (1, 0)
    assert names(seeds) == ["a"]
    assert counted(database) == 1


def test_new_options_of_old_jobs_are_part_of_the_transaction(
    database: Database, seeds: Seeds, own: sa.Engine
) -> None:
    """As the jobs themselves are."""
    tokenspool.enqueue(jobs("a"), db=database, **ASKED)
    with own.connect() as connection:
        tokenspool.enqueue(jobs("a"), connection=connection, priority=7, **ASKED)
        connection.rollback()
        assert seeds.row("a")["priority"] == 0
        taken = tokenspool.enqueue(jobs("a"), connection=connection, priority=7, **ASKED)
        connection.commit()

    assert (taken.new, taken.updated) == (0, 1)
    assert seeds.row("a")["priority"] == 7


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_on_postgresql_another_enqueue_waits_for_the_callers_transaction(
    database: Database, own: sa.Engine
) -> None:
    """Then it finds the jobs there, instead of failing over them."""
    waits = threading.Event()
    lines = read_documents(jobs("a"), InputDefaults(batch="b", model="m"), warn=pytest.fail)
    options = JobOptions(base_url="http://x/v1")
    listener = Listener(waiting=waits.set)
    with own.connect() as connection, ThreadPoolExecutor() as threads:
        tokenspool.enqueue(jobs("a"), connection=connection, **ASKED)
        other = threads.submit(enqueue, database, "b", "/out", lines, options, listener=listener)
        waited = waits.wait(30)
        connection.commit()
        answer = other.result(30)

    assert waited
    assert (answer.new, answer.same) == (0, 1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_does_not_wait_for_another_enqueue(
    database: Database, seeds: Seeds, own: sa.Engine
) -> None:
    """It would wait for a writer that waits for it; PostgreSQL waits in its turn."""
    with (
        own.connect() as connection,
        alone(database, lambda: None),
        pytest.raises(Unavailable, match="another enqueue is under way"),
    ):
        tokenspool.enqueue(jobs("a"), connection=connection, **ASKED)
    assert names(seeds) == []


def test_connections_that_cannot_keep_the_promise_are_refused(
    database: Database, own: sa.Engine
) -> None:
    """One that commits each statement, and one that is not the database that was named."""
    alone_each = own.execution_options(isolation_level="AUTOCOMMIT")
    with (
        alone_each.connect() as connection,
        pytest.raises(UsageError, match="commits each statement by itself"),
    ):
        tokenspool.enqueue(jobs("a"), connection=connection, **ASKED)
    with own.connect() as connection, pytest.raises(UsageError, match="db or connection"):
        tokenspool.enqueue(jobs("a"), connection=connection, db=database, **ASKED)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_sqlite_that_may_damage_its_file_takes_only_our_own_transaction(
    own: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two connections that write at once need a lock there that only ours hold."""
    monkeypatch.setattr("tokenspool.store.intake.joined.sqlite_is_safe", lambda: False)
    with own.connect() as connection, pytest.raises(UsageError, match=r"tokenspool\.transaction"):
        tokenspool.enqueue(jobs("a"), connection=connection, **ASKED)


def test_a_database_without_our_tables_is_said(tmp_path: Path) -> None:
    """With the command that makes them."""
    engine = sa.create_engine(databases.sqlite_url(tmp_path / "other.db"))
    with engine.connect() as plain:
        connection = plain.execution_options(tokenspool_write=True)
        with pytest.raises(Unavailable, match="run `tokenspool db upgrade`"):
            tokenspool.enqueue(jobs("a"), connection=connection, **ASKED)
    engine.dispose()


# --- death --------------------------------------------------------------------------------------
#: Kills itself with all rows inserted, right before they are revealed.
CHILD = """
import os, signal, sys
import tokenspool
from tokenspool.store.intake.hidden import Hidden

def die(self):
    os.kill(os.getpid(), signal.SIGKILL)

Hidden.reveal = die
url, how = sys.argv[1:]
jobs = [{"custom_id": f"job-{n}", "prompt": "x"} for n in range(1500)]
asked = dict(batch="b", output="/out", base_url="http://x/v1", model="m")
if how == "alone":
    tokenspool.enqueue(jobs, db=url, **asked)
with tokenspool.transaction(db=url) as connection:
    tokenspool.enqueue(jobs, connection=connection, **asked)
"""


@pytest.mark.parametrize("how", ["alone", "within"])
def test_a_death_before_the_reveal_leaves_nothing_half_enqueued(
    database_url: str, database: Database, seeds: Seeds, how: str
) -> None:
    """Nobody sees or counts any of it, and the same call does it all."""
    child = [sys.executable, "-P", "-c", CHILD, database_url, how]
    assert subprocess.run(child, check=False, timeout=50).returncode == -signal.SIGKILL

    assert names(seeds) == []
    assert seeds.rows(t.job_count) == []

    given = [{"custom_id": f"job-{n}", "prompt": "x"} for n in range(1500)]
    taken = tokenspool.enqueue(given, db=database_url, **ASKED)
    assert (taken.new, len(set(taken.ids))) == (1500, 1500)
    assert counted(database) == 1500
