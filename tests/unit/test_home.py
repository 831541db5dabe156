"""A folder's outputs follow it: whatever it was called, and wherever one dies in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tokenspool import home, migrate
from tokenspool import tables as t
from tokenspool.database import Database, sqlite_url
from tokenspool.errors import Unavailable


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Give the database of the folder `here`, without a home."""
    database = Database(sqlite_url(tmp_path / "here/.tokenspool/spool.db"))
    migrate.ensure(database)
    yield database
    database.close()


def put(database: Database, *roots: str) -> None:
    """Have outputs with these roots."""
    with database.write() as connection:
        for root in roots:
            connection.execute(sa.insert(t.output).values(root=root))


def roots(database: Database) -> list[str]:
    """Give the roots of all outputs."""
    with database.read() as connection:
        return list(
            connection.execute(sa.select(t.output.c.root).order_by(t.output.c.id)).scalars()
        )


def lay(database: Database, place: str) -> None:
    """Have a home."""
    assert database.path is not None
    database.path.with_name("home").write_text(f"{place}\n")


def test_outputs_at_and_below_the_old_place_move_and_no_others(
    database: Database, tmp_path: Path
) -> None:
    """A neighbour with a name alike stays, and so does all after a death before the file."""
    put(database, "/old", "/old/below", "/older", "/else")
    lay(database, "/old")
    here = f"{tmp_path}/here"
    moved = [here, f"{here}/below", "/older", "/else"]

    assert home.settle(database) == "/old"
    assert roots(database) == moved
    assert home.home_of(database) == here

    lay(database, "/old")
    assert home.settle(database) is None
    assert (roots(database), home.home_of(database)) == (moved, here)


def test_a_folder_moved_into_itself_moves_once(database: Database, tmp_path: Path) -> None:
    """The new place lies below the old: a second look after a crash must not go deeper."""
    put(database, str(tmp_path))
    for _ in range(2):
        lay(database, str(tmp_path))
        home.settle(database)

    assert roots(database) == [f"{tmp_path}/here"]


def test_a_folder_moved_upwards_or_from_the_root(database: Database, tmp_path: Path) -> None:
    """The old place was deeper, or `/`."""
    put(database, f"{tmp_path}/here/in/it")
    lay(database, f"{tmp_path}/here/in/it")
    home.settle(database)
    assert roots(database) == [f"{tmp_path}/here"]

    put(database, "/")
    lay(database, "/")
    with pytest.raises(Unavailable, match="would be one folder: move it back"):
        home.settle(database)
    assert roots(database) == [f"{tmp_path}/here", "/"]


def test_a_folder_without_the_file_is_known_by_its_output(
    database: Database, tmp_path: Path
) -> None:
    """By another spelling too, which is corrected; with outputs elsewhere alone nothing is said."""
    (tmp_path / "link").symlink_to(tmp_path)
    put(database, "/else")
    assert home.settle(database) is None
    assert home.home_of(database) is None

    put(database, f"{tmp_path}/link/here")

    assert home.settle(database) is None
    assert roots(database) == ["/else", f"{tmp_path}/here"]
    assert home.home_of(database) == f"{tmp_path}/here"


def test_a_database_outside_such_a_folder_has_no_home(tmp_path: Path) -> None:
    """A plain file, or what is linked into a folder, belongs to no folder."""
    (tmp_path / "true/.tokenspool").mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/.tokenspool").symlink_to(tmp_path / "true/.tokenspool")

    for path in ("spool.db", "linked/.tokenspool/spool.db"):
        database = Database(sqlite_url(tmp_path / path))
        assert home.folder_of(database) is None
        assert home.settle(database) is None
    assert home.folder_of(Database("postgresql://nobody@127.0.0.1/none")) is None


def test_the_batch_is_called_after_the_folder_again(database: Database) -> None:
    """Another batch keeps its name, and a name that is taken is left alone."""
    put(database, "/old")
    lay(database, "/old")
    with database.write() as connection:
        for name in ("old", "mine"):
            connection.execute(sa.insert(t.batch).values(name=name, created_at=0.0))

    home.settle(database)

    assert batches(database) == ["here", "mine"]

    put(database, "/mine")
    lay(database, "/mine")
    with pytest.raises(Unavailable):
        home.settle(database)
    assert batches(database) == ["here", "mine"]


def batches(database: Database) -> list[str]:
    """Give the names of all batches."""
    with database.read() as connection:
        return list(connection.execute(sa.select(t.batch.c.name).order_by(t.batch.c.id)).scalars())
