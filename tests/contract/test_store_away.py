"""What a database's troubles are called: those that pass are waited for, the others end the run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database, DatabaseError, sqlite_url


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


@pytest.fixture
def postgresql(shared_postgresql: str) -> Iterator[Database]:
    """Give a PostgreSQL of our own."""
    database = Database(shared_postgresql)
    yield database
    database.close()


def test_a_connection_that_was_cut_is_made_again(postgresql: Database) -> None:
    """A restarted server: the beat is told "not now", and the next try finds it there."""

    def beat() -> None:
        with postgresql.write() as connection:
            pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            with postgresql.engine.connect() as other:
                other.execute(sa.text(f"SELECT pg_terminate_backend({pid})"))
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(DatabaseError) as caught:
        beat()

    assert caught.value.passing
    with postgresql.write() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1


def test_a_server_that_is_not_there_is_waited_for(postgresql: Database) -> None:
    """It refuses connections while it starts."""
    nobody = Database(postgresql.url.set(port=1).render_as_string(hide_password=False))

    with pytest.raises(DatabaseError) as caught, nobody.read():
        pass

    assert caught.value.passing


@pytest.mark.parametrize("wrong", ["database", "username"])
def test_what_waiting_does_not_mend_is_said_at_once(postgresql: Database, wrong: str) -> None:
    """A name that is wrong now is wrong in an hour."""
    url = postgresql.url.set(**{wrong: "nobody_of_this_name"})  # type: ignore[arg-type]
    other = Database(url.render_as_string(hide_password=False))

    with pytest.raises(DatabaseError) as caught, other.read():
        pass

    assert not caught.value.passing
    assert "nobody_of_this_name" in str(caught.value)


def test_two_transactions_that_wait_for_each_other_are_told_to_try_again(
    postgresql: Database,
) -> None:
    """One of them is shot; it did nothing wrong."""
    with postgresql.write() as connection:
        connection.execute(t.batch.delete())
        for number in (1, 2):
            row = t.batch.insert().values(id=number, name=f"b{number}", created_at=0)
            connection.execute(row)
    crossed = threading.Barrier(2)
    errors: list[DatabaseError] = []

    def cross(first: int, second: int) -> None:
        try:
            with postgresql.write() as connection:
                for number in (first, second):
                    row = sa.update(t.batch).where(t.batch.c.id == number)
                    connection.execute(row.values(paused=True))
                    if number == first:
                        crossed.wait()
        except DatabaseError as error:
            errors.append(error)

    threads = [threading.Thread(target=cross, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [error.passing for error in errors] == [True]


def test_refused_data_is_no_trouble_of_the_database(seeds: Seeds) -> None:
    """It is the row's own, and the others can be committed without it."""
    seeds.enqueue("a")

    with pytest.raises(sa.exc.IntegrityError):
        seeds.enqueue("a")


def test_a_damaged_file_is_said_to_be_one(tmp_path: Path) -> None:
    """Not every job fails one after the other: the run ends, with the reason."""
    path = tmp_path / "spool.db"
    path.write_bytes(b"this is not a database at all" * 100)
    database = Database(sqlite_url(path))

    with pytest.raises(DatabaseError) as caught, database.read() as connection:
        connection.execute(sa.text("SELECT 1"))

    assert not caught.value.passing
    assert "not a database" in str(caught.value)
    assert str(path) in str(caught.value)
