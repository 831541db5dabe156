"""URLs of databases: those that people have from other programs mean the same database here."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tokenspool.database import Database
from tokenspool.errors import UsageError


@pytest.mark.parametrize(
    "url", ["sqlite:///spool.db", "sqlite+aiosqlite:///spool.db", "sqlite+pysqlite:///spool.db"]
)
def test_a_file_is_a_file_by_whatever_driver(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is ours; the file is what is meant."""
    monkeypatch.chdir(tmp_path)

    with closing(Database(url)) as database:
        assert (database.kind, database.path) == ("sqlite", tmp_path / "spool.db")
        assert database.url.drivername == "sqlite"


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"]
)
def test_postgresql_has_several_names(scheme: str) -> None:
    """`postgres://` is what hosters hand out."""
    with closing(Database(f"{scheme}://u:secret@h/d")) as database:
        assert database.kind == "postgresql"
        assert database.name == "postgresql+psycopg://u:***@h/d"


@pytest.mark.parametrize("url", ["mysql://h/d", "mysql+pymysql://h/d", "nonsense://"])
def test_other_databases_are_refused(url: str) -> None:
    """By their own names."""
    with pytest.raises(UsageError, match=r"SQLite or PostgreSQL, not in (mysql|nonsense)$"):
        Database(url)
