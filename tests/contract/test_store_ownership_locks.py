"""Ownership on PostgreSQL, where several transactions are under way at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import migrate
from tokenspool import tables as t
from tokenspool.database import Database, DatabaseError, now
from tokenspool.store import claims, ownership, workers
from worker.lease import end_silent_transactions


@pytest.fixture
def seeds(new_postgresql: str, tmp_path: Path) -> Iterator[Seeds]:
    """Give an empty PostgreSQL to fill."""
    database = Database(new_postgresql)
    migrate.upgrade(database)
    # A lock that is waited for is a failure of the test, not its end.
    sa.event.listen(database.engine, "begin", _impatient)
    yield Seeds(database=database, root=tmp_path)
    database.close()


def _impatient(connection: sa.Connection) -> None:
    connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")


def test_a_claim_and_a_renewal_do_not_wait_for_each_other(seeds: Seeds) -> None:
    """The lease's own thread renews while a long claim is under way."""
    seeds.enqueue("a")
    seeds.live_worker("w")
    with seeds.database.write() as claiming, seeds.database.write() as renewing:
        assert claims.claim_ready(claiming, worker="w", endpoint_id=1, limit=1, leased=True)
        assert ownership.renew(renewing, "w", lease_s=45.0)


def test_who_is_just_claiming_is_not_declared_dead(seeds: Seeds) -> None:
    """Its new jobs would be taken from it in the moment in which it gets them."""
    seeds.enqueue("a")
    seeds.live_worker("w")
    with seeds.database.write() as claiming:
        assert claims.claim_ready(claiming, worker="w", endpoint_id=1, limit=1, leased=True)
        with seeds.database.write() as other:
            other.execute(sa.update(t.worker).values(lease_until=now() - 1.0))
        with seeds.database.write() as reaping:
            assert ownership.reap(reaping, max_crashes=2) == 0
        assert [row["state"] for row in seeds.rows(t.worker)] == ["running"]
    assert seeds.row("a")["owner"] == "w"
    with seeds.database.write() as reaping:
        assert ownership.reap(reaping, max_crashes=2) == 1


def test_a_job_that_is_locked_is_left_for_the_next_look(seeds: Seeds) -> None:
    """What somebody just writes is alive, or its connection ends."""
    seeds.live_worker("w")
    seeds.enqueue("locked", "free")
    seeds.claim(worker="w")
    seeds.change(t.worker, lease_until=now() - 1.0)
    locked = sa.select(t.job.c.id).where(t.job.c.custom_id == "locked").with_for_update()
    with seeds.database.write() as writing:
        writing.execute(locked).all()
        with seeds.database.write() as reaping:
            assert ownership.reap(reaping, max_crashes=2) == 1
    assert (seeds.row("free")["state"], seeds.row("locked")["state"]) == ("pending", "running")
    with seeds.database.write() as reaping:
        assert ownership.reap(reaping, max_crashes=2) == 1


def test_a_transaction_that_stands_still_loses_its_locks(seeds: Seeds) -> None:
    """A process that is suspended in the middle of a beat does not keep its jobs for ever."""
    database = Database(seeds.database.url.render_as_string(hide_password=False))
    end_silent_transactions(database, 0.3)
    seeds.live_worker("w")
    seeds.enqueue("a")
    seeds.claim(worker="w")
    seeds.change(t.worker, lease_until=now() - 1.0)

    freed: list[int] = []

    def stand_still() -> None:
        with database.write() as silent:
            silent.execute(sa.select(t.job.c.id).with_for_update()).all()
            with seeds.database.write() as waiting:
                # Waits for the lock, at most as long as `_impatient` says.
                freed.extend(waiting.execute(sa.select(t.job.c.id).with_for_update()).scalars())
            silent.execute(sa.select(t.job.c.id)).all()

    with pytest.raises(DatabaseError) as ended:
        stand_still()
    assert ended.value.passing
    assert len(freed) == 1
    with seeds.database.write() as reaping:
        assert ownership.reap(reaping, max_crashes=2) == 1
    database.close()


def test_a_successor_waits_for_a_claim_that_is_under_way(seeds: Seeds) -> None:
    """Or what it gets would belong to somebody who is gone."""
    seeds.live_worker("before")

    def succeed_at_once() -> None:
        with seeds.database.write() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
            ownership.succeed(
                connection, "before", worker="after", version="1", slots=8, lease_s=45.0
            )

    with seeds.database.write() as claiming:
        assert workers.lives(claiming, "before")
        with pytest.raises(DatabaseError):
            succeed_at_once()
    succeed_at_once()
