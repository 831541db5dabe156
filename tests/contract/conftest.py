"""One database after the other: what an operation promises, it promises on each of them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.desk import Desk
from tests.contract.servers import postgresql
from tokenspool import migrate, tables
from tokenspool.database import Database, sqlite_url


@contextlib.contextmanager
def _made(server: sa.URL) -> Iterator[str]:
    """Make a database of our own and drop it at the end, whoever is still in it."""
    name = f"tokenspool_test_{os.getpid()}_{secrets.token_hex(4)}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
        try:
            yield server.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[sa.URL]:
    """Give a PostgreSQL server on which databases may be made."""
    with postgresql() as url:
        yield url


@pytest.fixture
def new_postgresql(postgresql_server: sa.URL) -> Iterator[str]:
    """Give the URL of a database without tables, removed at the end."""
    with _made(postgresql_server) as url:
        yield url


@pytest.fixture(scope="session")
def shared_postgresql(postgresql_server: sa.URL) -> Iterator[str]:
    """Give the URL of a migrated database that tests use one after the other."""
    with _made(postgresql_server) as url:
        database = Database(url)
        migrate.upgrade(database)
        database.close()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a migrated database that is empty."""
    if request.param == "sqlite":
        url = sqlite_url(tmp_path / "spool.db")
        database = Database(url)
        migrate.upgrade(database)
    else:
        url = request.getfixturevalue("shared_postgresql")
        database = Database(url)
        with database.write() as connection:
            names = ", ".join(table.name for table in tables.metadata.sorted_tables)
            connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY"))
    database.close()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Give a migrated database that is empty."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    """Give an empty database to enqueue into."""
    return Desk(database, tmp_path)
