"""A database that is restored from a copy knows less than the disk: it is right, and goes on."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from simulator.settings import SimSettings
from tests.crash.fleet_places import MakeStage, make_stage
from tests.crash.fleet_stage import FleetStage, fleet_stage
from tests.crash.stage import PATIENCE_S, wait_until

__all__ = ["make_stage"]

TOKENS = 90
JOBS = 24


@contextmanager
def _copied(stage: FleetStage) -> Iterator[str]:
    """Copy the database, which nobody may use meanwhile; drop the copy at the end."""
    stage.hang_up()
    url = sa.make_url(stage.url)
    name = f"tokenspool_test_{secrets.token_hex(6)}"
    server = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text(f'CREATE DATABASE {name} TEMPLATE "{url.database}"'))
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_older_copy_of_the_database_makes_its_files_true_again(make_stage: MakeStage) -> None:
    """Done jobs are repaired from the journal, the others are finished once more."""
    stage = make_stage(SimSettings(rate=150, sampling=True))
    stage.fill([TOKENS] * JOBS)
    worker = stage.command_worker("--streams", "8")
    wait_until(lambda: stage.states().get("done", 0) >= JOBS // 3, of=worker)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_S) == 0

    with _copied(stage) as older:
        worker = stage.command_worker("--streams", "8")
        wait_until(stage.is_done, of=worker)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0
        with fleet_stage(stage.root, older, stage.simulator) as restored:
            restored.lengths = stage.lengths
            done = restored.rows("SELECT name FROM job WHERE state = 'done' ORDER BY id")
            (stage.out / done[0]["name"]).unlink()

            said = restored.done(restored.command("verify", "--repair", "--json"), code=0)

            told = json.loads(said.stdout)
            assert told["checked"] == len(done)
            assert told["repaired"] == 1
            worker = restored.command_worker("--streams", "8")
            wait_until(restored.is_done, of=worker)
            restored.judge(sampled=True)
