"""The health check of a container asks the database whether a worker of its host lives."""

from __future__ import annotations

import socket

import pytest
import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.store import workers
from worker import healthy


@pytest.fixture
def asked(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Let the check ask this database."""
    monkeypatch.setenv(
        "TOKENSPOOL_DATABASE_URL", database.url.render_as_string(hide_password=False)
    )
    return database


def _register(database: Database, *, lease_s: float = 45.0) -> None:
    with database.write() as connection:
        workers.register(connection, "w-1", version="0", slots=1, lease_s=lease_s)


def test_a_host_with_a_living_worker_is_healthy(
    asked: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lease holds, so its loop and its journal move."""
    _register(asked)

    assert healthy.main() == 0
    assert "heard of 0 s ago" in capsys.readouterr().out


def test_a_host_without_a_worker_is_not(asked: Database) -> None:
    """Whatever other hosts have."""
    _register(asked)
    with asked.write() as connection:
        connection.execute(sa.update(t.worker).values(host=f"not-{socket.gethostname()}"))

    assert healthy.main() == 1


def test_a_lease_that_ran_out_is_not_healthy(asked: Database) -> None:
    """Somebody is registered, but stands still."""
    _register(asked, lease_s=-1.0)

    assert healthy.main() == 1


def test_a_worker_that_signed_off_is_not_healthy(asked: Database) -> None:
    """It has gone, whatever is left of its lease."""
    _register(asked)
    with asked.write() as connection:
        workers.retire(connection, workers=["w-1"])

    assert healthy.main() == 1


def test_a_database_without_tables_knows_no_worker(
    new_postgresql: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The migration has not run; a worker would have refused to start."""
    monkeypatch.setenv("TOKENSPOOL_DATABASE_URL", new_postgresql)

    assert healthy.main() == 1
    assert "no living worker" in capsys.readouterr().out


def test_while_the_database_is_away_nobody_is_restarted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worker waits with its streams open; the password is not shown."""
    monkeypatch.setenv("TOKENSPOOL_DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/none")

    assert healthy.main() == 0
    said = capsys.readouterr().out
    assert said.startswith("unknown: ")
    assert "secret" not in said
