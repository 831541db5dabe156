"""The Celery app: what it refuses before it touches anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker import app as celery_app

REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("TOKENSPOOL_", "CELERY_")):
            monkeypatch.delenv(name)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give what a person is told."""
    said: list[str] = []
    monkeypatch.setattr(celery_app, "say", said.append)
    return said


def begin(pool: str = "threads", slots: object = 2) -> None:
    """Begin as Celery does."""
    worker = SimpleNamespace(app=celery_app.app, pool_cls=pool, concurrency=slots)
    celery_app._begin(sender=worker)


@pytest.mark.parametrize(
    ("database", "code", "part"),
    [
        ("", 2, "TOKENSPOOL_DATABASE_URL"),
        ("sqlite:///x.db", 2, "tokenspool run"),
        ("postgresql://me:secret@127.0.0.1:1/none", 4, "cannot be used"),
    ],
)
def test_a_database_that_cannot_be_shared_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
    database: str,
    code: int,
    part: str,
) -> None:
    """One sentence without its password, and the exit code that every command gives."""
    monkeypatch.setenv("TOKENSPOOL_DATABASE_URL", database)
    monkeypatch.setenv("TOKENSPOOL_BROKER_URL", REDIS)

    with pytest.raises(SystemExit) as ended:
        begin()

    assert ended.value.code == code
    assert part in said[0]
    assert "secret" not in said[0]
    assert celery_app.app.host is None


@pytest.mark.parametrize("url", ["", "me:secret@here"])
def test_a_broker_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, said: list[str], url: str
) -> None:
    """Celery's own default would be a broker on this machine that nobody meant."""
    monkeypatch.setenv("TOKENSPOOL_BROKER_URL", url)
    app = celery_app.App("another", set_as_current=False)

    with pytest.raises(SystemExit) as ended:
        _ = app.conf.broker_url

    assert ended.value.code == 2
    assert "TOKENSPOOL_BROKER_URL" in said[0]
    assert "secret" not in said[0]


def test_celerys_own_option_names_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """`celery -b URL` goes before the settings."""
    monkeypatch.setenv("TOKENSPOOL_BROKER_URL", "redis://settings/0")
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://option//")
    app = celery_app.App("another", set_as_current=False)

    assert app.conf.broker_url == "amqp://option//"
    assert "global_keyprefix" not in app.conf.broker_transport_options


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_pools_that_are_no_threads_are_refused(pool: str) -> None:
    """A fork would take half an event loop with it."""
    with pytest.raises(SystemExit) as ended:
        begin(pool)

    assert ended.value.code == 2


def test_slots_must_be_a_number() -> None:
    """`-c auto` is known to Celery only after we must know it."""
    with pytest.raises(SystemExit) as ended:
        begin(slots="auto")

    assert ended.value.code == 2


def test_a_worker_of_another_app_is_none_of_ours() -> None:
    """The signal comes for every Celery worker in the process."""
    celery_app._begin(sender=SimpleNamespace(app=object(), pool_cls="prefork", concurrency=2))


def test_importing_it_costs_neither_settings_nor_database(tmp_path: Path) -> None:
    """Whoever only sends tasks by name reads no settings, not even wrong ones."""
    (tmp_path / "tokenspool.toml").write_text("wrong =")
    done = subprocess.run(
        (sys.executable, "-P", "-c", "import worker.app"),
        cwd=tmp_path,
        env={**os.environ, "TOKENSPOOL_DATABASE_URL": "no database"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
