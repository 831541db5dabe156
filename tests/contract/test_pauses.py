"""A person's pause of a batch or an endpoint, over SQLite and PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.errors import ErrorKind, UsageError
from tokenspool.model import Completed, Failure, GivenBack, Postponed
from tokenspool.store import claims, endpoints, pauses, reads
from tokenspool.store.pauses import Held, Target

URL = "http://x/v1"


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def batch(database: Database, name: str = "b") -> Target:
    """Mean a batch."""
    with database.read() as connection:
        return Target(batch_id=reads.batch_id(connection, name))


def endpoint(database: Database, name: str = URL) -> Target:
    """Mean endpoints."""
    with database.read() as connection:
        return Target(endpoint_ids=pauses.find_endpoints(connection, name))


def held(database: Database) -> Held:
    """Give what is held up."""
    with database.read() as connection:
        return pauses.held(connection)


def add_endpoints(seeds: Seeds, *pairs: tuple[str, str]) -> None:
    """Make more endpoints."""
    with seeds.database.write() as connection:
        for url, model in pairs:
            row = t.endpoint.insert().values(url=url, model=model, api_key_env="K")
            connection.execute(row)


# --- a batch ------------------------------------------------------------------------------------
def test_a_paused_batch_is_not_claimed_and_others_are(database: Database, seeds: Seeds) -> None:
    """Until it is unpaused."""
    seeds.enqueue("a")
    seeds.enqueue("c", batch="other")

    assert pauses.pause(database, batch(database), who="me") == 1
    assert [job.custom_id for job in seeds.claim()] == ["c"]

    assert pauses.unpause(database, batch(database), who="me") == 1
    assert [job.custom_id for job in seeds.claim()] == ["a"]


def test_running_jobs_of_a_paused_batch_go_on_and_are_published(
    database: Database, seeds: Seeds
) -> None:
    """Their claim stands; and if their worker is gone by then, the next one publishes them."""
    seeds.enqueue("a")
    seeds.claim()
    pauses.pause(database, batch(database), who="me")

    assert seeds.spool("a", "more")
    assert seeds.spool("a", " text", ending=Completed(finish="stop"))
    seeds.change(t.job, owner=None)

    with database.write() as connection:
        to_publish = claims.claim_complete(connection, worker="w", limit=5)
    assert [job.custom_id for job in to_publish] == ["a"]


@pytest.mark.parametrize(
    "ending",
    [
        GivenBack(cause="connect"),
        Postponed(failure=Failure(kind=ErrorKind.NETWORK, message="cut"), delay_s=0.0),
    ],
)
def test_a_job_that_comes_back_to_a_paused_batch_waits_there(
    database: Database, seeds: Seeds, ending: GivenBack | Postponed
) -> None:
    """It is not taken up again, whether it was given back or its time has come."""
    seeds.enqueue("a")
    seeds.claim()
    pauses.pause(database, batch(database), who="me")
    seeds.spool("a", "some", ending=ending)

    with database.write() as connection:
        claims.wake_due(connection)

    assert seeds.claim() == []
    assert held(database) == Held(jobs=1, batches=("b",), endpoints=())


def test_status_names_the_paused_batches(database: Database, seeds: Seeds) -> None:
    """Whatever batch it is asked about."""
    seeds.enqueue("a")
    seeds.enqueue("c", batch="other")
    pauses.pause(database, batch(database, "other"), who="me")

    with database.read() as connection:
        assert reads.status(connection).paused == ("other",)
        assert reads.status(connection, batch=batch(database).batch_id).paused == ("other",)


# --- endpoints ----------------------------------------------------------------------------------
def test_an_endpoint_is_meant_by_its_url_or_by_url_and_model(
    database: Database, seeds: Seeds
) -> None:
    """A URL means all its models; case and a slash at its end do not matter."""
    add_endpoints(seeds, (URL, "m"), (URL, "n"), ("http://y/v1", "m"))

    assert endpoint(database).endpoint_ids == (1, 2)
    assert endpoint(database, "HTTP://X/v1/").endpoint_ids == (1, 2)
    assert endpoint(database, f"{URL} n").endpoint_ids == (2,)


@pytest.mark.parametrize("name", ["http://z/v1", f"{URL} other"])
def test_an_unknown_endpoint_is_refused_with_what_there_is(
    database: Database, seeds: Seeds, name: str
) -> None:
    """Nobody must believe that something is paused."""
    add_endpoints(seeds, (URL, "m"))

    with pytest.raises(UsageError, match=r"no endpoint is called .*; there are: 'http://x/v1 m'"):
        endpoint(database, name)


def test_a_url_with_a_password_is_refused_without_being_repeated(database: Database) -> None:
    """It would stand in the terminal's scrollback."""
    with pytest.raises(UsageError) as caught:
        endpoint(database, "http://me:hunter2@x/v1")
    assert "hunter2" not in str(caught.value)


def test_a_pause_of_an_endpoint_stands_against_what_a_worker_learns(
    database: Database, seeds: Seeds
) -> None:
    """A worker records that it is up or down; only a person takes the pause back."""
    seeds.enqueue("a")
    pauses.pause(database, endpoint(database), who="me")

    with database.write() as connection:
        endpoints.set_state(connection, 1, state="up")
    row = seeds.rows(t.endpoint)[0]
    assert (row["state"], row["reason"]) == ("paused", "by me")
    assert held(database) == Held(jobs=1, batches=(), endpoints=((URL, "m"),))

    pauses.unpause(database, endpoint(database), who="me")
    row = seeds.rows(t.endpoint)[0]
    assert (row["state"], row["reason"], row["retry_at"]) == ("up", None, None)
    assert held(database).jobs == 0


def test_unpausing_does_not_touch_an_endpoint_that_is_down(
    database: Database, seeds: Seeds
) -> None:
    """That it is down is not a person's doing."""
    seeds.enqueue("a")
    with database.write() as connection:
        endpoints.set_state(connection, 1, state="down", reason="refused", retry_in_s=9)

    assert pauses.unpause(database, endpoint(database), who="me") == 0
    assert seeds.rows(t.endpoint)[0]["state"] == "down"


def test_jobs_that_run_on_an_endpoint_are_counted(database: Database, seeds: Seeds) -> None:
    """They are what goes on in spite of a pause."""
    seeds.enqueue("a", "b", "c")
    seeds.claim(2)
    with database.read() as connection:
        assert pauses.running_on(connection, endpoint(database)) == 2


# --- both ---------------------------------------------------------------------------------------
def test_each_change_is_one_row_of_the_audit(database: Database, seeds: Seeds) -> None:
    """What was so already changes nothing, and is not on record."""
    add_endpoints(seeds, (URL, "m"), (URL, "n"))
    seeds.enqueue("a")

    for target in (batch(database), endpoint(database)):
        for action in (pauses.pause, pauses.pause, pauses.unpause, pauses.unpause):
            action(database, target, who="me")

    rows = [(row["who"], row["action"], row["scope"], row["jobs"]) for row in seeds.rows(t.audit)]
    assert rows == [
        ("me", "pause", "batch=1", 0),
        ("me", "unpause", "batch=1", 0),
        ("me", "pause", "endpoint=1 endpoint=2", 0),
        ("me", "unpause", "endpoint=1 endpoint=2", 0),
    ]


def test_a_pause_that_dies_before_its_commit_is_none(database: Database, seeds: Seeds) -> None:
    """Mark and audit are one transaction."""
    seeds.enqueue("a")

    class Died(BaseException):
        """The process is no more."""

    def die(_connection: sa.Connection) -> None:
        raise Died

    target = batch(database)
    sa.event.listen(database.engine, "commit", die)
    with pytest.raises(Died):
        pauses.pause(database, target, who="me")
    sa.event.remove(database.engine, "commit", die)

    assert seeds.rows(t.batch)[0]["paused"] is False
    assert seeds.rows(t.audit) == []


def test_only_what_a_pause_holds_up_is_held(database: Database, seeds: Seeds) -> None:
    """What runs, has ended or is not revealed yet does not wait for a person."""
    seeds.enqueue("runs")
    seeds.claim()
    seeds.failed("failed")
    seeds.enqueue("hidden", batch="secret", hidden=True)
    for name in ("b", "secret"):
        pauses.pause(database, batch(database, name), who="me")
    pauses.pause(database, endpoint(database), who="me")

    assert held(database) == Held(jobs=0, batches=(), endpoints=())


def test_what_stands_there_already_is_not_written_again(database: Database, seeds: Seeds) -> None:
    """All workers learn the same: the row's lock would make their heartbeats wait in line."""
    seeds.enqueue("a")
    states = [
        {"state": "busy", "reason": "full", "limit": 4},
        {"state": "busy", "reason": "full", "limit": 4},
        {"state": "busy", "reason": "full", "limit": 5},
        {"state": "up", "reason": None, "limit": 5},
    ]

    with database.write() as connection:
        written = [endpoints.set_state(connection, 1, **one) for one in states]  # type: ignore[arg-type]

    assert written == [True, False, True, True]
