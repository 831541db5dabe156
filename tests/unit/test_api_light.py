"""What a service loads with `import tokenspool`, and which database it means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tokenspool
from tokenspool.database import sqlite_url
from tokenspool.opening import url_of

#: Clients, queues, the command line and the floors above.
HEAVY = {
    "aiofiles",
    "aiohttp",
    "celery",
    "cli",
    "httpx2",
    "kombu",
    "openai",
    "pipeline",
    "redis",
    "rich",
    "simulator",
    "typer",
    "uvloop",
    "worker",
}


def loaded(code: str) -> set[str]:
    """Give the packages that a new interpreter has loaded after this."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-P", "-c", code]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_loads_next_to_nothing() -> None:
    """The command and every worker import it, too."""
    assert loaded("import tokenspool").isdisjoint(HEAVY | {"alembic", "pydantic", "sqlalchemy"})


def test_a_service_that_enqueues_and_follows_loads_no_client_and_no_queue(tmp_path: Path) -> None:
    """Also when it does it."""
    code = f"""
import tokenspool
asked = dict(batch="b", output="out", db={str(tmp_path / "s.db")!r}, model="m")
tokenspool.enqueue([{{"prompt": "x"}}], **asked)
with tokenspool.open_batch("b", db=asked["db"]) as batch:
    next(batch.jobs()).text(partial=True)
"""
    assert loaded(code).isdisjoint(HEAVY)


def test_every_name_of_the_door_is_there() -> None:
    """Names are looked up when they are meant; a slip of the pen is an AttributeError."""
    for name in tokenspool.__all__:
        assert getattr(tokenspool, name) is not None
    assert "enqeue" not in dir(tokenspool)
    with pytest.raises(AttributeError, match="no attribute 'enqeue'"):
        _ = tokenspool.enqeue  # type: ignore[attr-defined]


def test_a_database_is_a_url_a_file_or_the_folder_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the command: what is said, then the settings, then where we stand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKENSPOOL_DATABASE_URL", raising=False)
    here = Path.cwd()
    folder = sqlite_url(here / ".tokenspool" / "spool.db")

    assert url_of("postgresql://h/d") == "postgresql://h/d"
    assert url_of("spool.db") == url_of(Path("spool.db")) == sqlite_url(here / "spool.db")
    assert url_of(tmp_path) == url_of(None) == folder
    monkeypatch.setenv("TOKENSPOOL_DATABASE_URL", "postgresql://h/set")
    assert url_of(None) == "postgresql://h/set"
