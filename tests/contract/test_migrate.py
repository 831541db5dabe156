"""Which version a database has, and how it comes to ours."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.contract.seeds import Seeds
from tokenspool import migrate, tables
from tokenspool.database import Database, sqlite_url
from tokenspool.errors import TokenspoolError, Unavailable, UsageError


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database without tables."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "bare.db")
    url: str = request.getfixturevalue("new_postgresql")
    return url


def opened(url: str) -> closing[Database]:
    """Open a database for the length of a block."""
    return closing(Database(url))


def tables_of(database: Database) -> set[str]:
    """Give the names of the tables that are there."""
    with database.read() as connection:
        return set(sa.inspect(connection).get_table_names())


def set_revision(database: Database, revision: str) -> None:
    """Make the database one of another version."""
    with database.write() as connection:
        connection.execute(
            sa.text("UPDATE alembic_version SET version_num = :at"), {"at": revision}
        )


def test_the_newest_migration_is_the_one_that_the_code_asks_for() -> None:
    """There is one head, and `tables.HEAD` names it."""
    config = Config()
    config.set_main_option("script_location", str(migrate._scripts()))

    assert ScriptDirectory.from_config(config).get_heads() == [tables.HEAD]


def test_the_migrations_make_exactly_the_tables_that_the_code_knows(bare_url: str) -> None:
    """Column for column, index for index, default for default."""
    with opened(bare_url) as database:
        migrate.upgrade(database)

        with database.read() as connection:
            # Alembic reads SQLite's default '' wrongly; the next test compares word for word.
            defaults = database.kind == "postgresql"
            options = {"compare_type": True, "compare_server_default": defaults}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, tables.metadata) == []
        assert tables_of(database) == {*tables.metadata.tables, "alembic_version"}


def test_the_migrations_make_word_for_word_what_the_tables_make(tmp_path: Path) -> None:
    """Partial indexes and orders, too, which a comparison of columns does not see."""

    def statements(path: Path) -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
            return sorted(sql for (sql,) in found if "alembic_version" not in sql)

    with opened(sqlite_url(tmp_path / "migrated.db")) as database:
        migrate.upgrade(database)
    with opened(sqlite_url(tmp_path / "made.db")) as database, database.write() as connection:
        tables.metadata.create_all(connection)

    assert statements(tmp_path / "migrated.db") == statements(tmp_path / "made.db")


def test_postgresql_gets_the_same_indexes_and_room_to_update(
    new_postgresql: str, shared_postgresql: str
) -> None:
    """Conditions and orders of indexes, and the fill of the table that every beat updates."""
    indexes = sa.text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")
    fill = sa.text("SELECT reloptions FROM pg_class WHERE relname = 'checkpoint'")

    def found(database: Database) -> tuple[object, object]:
        with database.read() as connection:
            kept = connection.execute(indexes).scalars().all()
            return [one for one in kept if "alembic" not in one], connection.execute(fill).scalar()

    with opened(new_postgresql) as made, opened(shared_postgresql) as migrated:
        with made.write() as connection:
            tables.metadata.create_all(connection)

        assert found(made) == found(migrated)
        assert found(migrated)[1] == ["fillfactor=50"]


def test_a_database_knows_its_revision_before_and_after(bare_url: str) -> None:
    """None without tables of ours, the newest after the upgrade, which may be repeated."""
    with opened(bare_url) as database:
        before = migrate.current(database)
        migrate.upgrade(database)
        migrate.upgrade(database)
        after = migrate.current(database)

    assert (before, after) == (None, tables.HEAD)


def test_a_newer_database_is_left_alone(database: Database) -> None:
    """Its tables may mean something else by now: nothing is read, written or upgraded."""
    set_revision(database, "9999")
    try:
        for ask in (migrate.current, migrate.upgrade, migrate.ensure):
            with pytest.raises(Unavailable, match="made by a newer tokenspool") as caught:
                ask(database)
            assert caught.value.exit_code == 4
    finally:
        set_revision(database, tables.HEAD)


def test_asking_for_the_revision_makes_no_file(tmp_path: Path) -> None:
    """Looking is not making: neither a file nor its folder appears."""
    database = Database(sqlite_url(tmp_path / "sub" / "spool.db"))

    assert migrate.current(database) is None
    assert list(tmp_path.iterdir()) == []


def test_a_sqlite_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    """Prompts and answers are personal: 0600, in a folder of 0700, whatever the umask is."""
    path = tmp_path / "out" / ".tokenspool" / "spool.db"

    with opened(sqlite_url(path)) as database:
        migrate.ensure(database)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}


def test_a_path_may_hold_what_alembic_takes_for_a_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout below a folder called `50%(here)s` migrates like any other."""
    odd = tmp_path / "50%(here)s"
    odd.symlink_to(migrate._scripts())
    monkeypatch.setattr(migrate, "_scripts", lambda: odd)

    with opened(sqlite_url(tmp_path / "spool.db")) as database:
        migrate.upgrade(database)

        assert migrate.current(database) == tables.HEAD


def test_an_older_postgresql_waits_for_somebody_to_decide(new_postgresql: str) -> None:
    """A database that a fleet shares is never migrated by the first worker that comes along."""
    with opened(new_postgresql) as database:
        with pytest.raises(Unavailable, match="run `tokenspool db upgrade`") as caught:
            migrate.ensure(database)
        assert caught.value.exit_code == 4

        migrate.upgrade(database)
        set_revision(database, "0000")
        with pytest.raises(Unavailable, match="is at revision 0000: run `tokenspool db upgrade`"):
            migrate.ensure(database)


def test_a_database_of_the_first_version_keeps_its_jobs(
    bare_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upgraded with rows in place, it has the new indexes, and its jobs are claimed."""
    with opened(bare_url) as database:
        monkeypatch.setattr(tables, "HEAD", "0001")
        migrate.upgrade(database)
        seeds = Seeds(database=database, root=tmp_path)
        seeds.enqueue("a", "b")
        seeds.enqueue("paused", batch="paused")
        with database.write() as connection:
            paused = sa.update(tables.batch).where(tables.batch.c.name == "paused")
            connection.execute(paused.values(paused=True))
        before = seeds.rows(tables.job)
        monkeypatch.undo()

        assert migrate.current(database) == "0001"
        migrate.upgrade(database)

        assert migrate.current(database) == tables.HEAD
        assert seeds.rows(tables.job) == before
        with database.read() as connection:
            inspector = sa.inspect(connection)
            made = {index["name"] for index in inspector.get_indexes("job")}
        assert {"job_claimable", "job_dispatched"} <= made
        assert "job_ready" not in made
        assert [job.custom_id for job in seeds.claim()] == ["a", "b"]


def test_many_processes_may_upgrade_at_once(bare_url: str) -> None:
    """One migrates, the others wait and find it done."""
    program = (
        "import sys; from tokenspool import migrate; from tokenspool.database import Database\n"
        "database = Database(sys.argv[1]); migrate.upgrade(database)\n"
        "print(migrate.current(database)); database.close()"
    )
    command = [sys.executable, "-P", "-c", program, bare_url]

    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=50)[0] for process in started]

    assert said == [f"{tables.HEAD}\n"] * 4


def test_what_fails_in_the_middle_leaves_nothing(
    bare_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables and the revision are one transaction, on SQLite as well."""

    def fails_at_its_end(connection: sa.Connection) -> None:
        tables.metadata.create_all(connection)
        msg = "the machine stops here"
        raise RuntimeError(msg)

    monkeypatch.setattr(migrate, "_run", fails_at_its_end)
    with opened(bare_url) as database:
        with pytest.raises(RuntimeError, match="stops here"):
            migrate.upgrade(database)

        assert tables_of(database) == set()


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    """A text, a folder, a file below a file and a place that cannot be: one sentence each."""
    text = tmp_path / "notes.txt"
    text.write_text("this is not a database")
    cases: list[tuple[Path, type[TokenspoolError], str]] = [
        (text, Unavailable, "is not a database of tokenspool"),
        (tmp_path, UsageError, "no file that could hold a database"),
        (text / "spool.db", Unavailable, "Not a directory"),
        (Path("/proc/none/spool.db"), Unavailable, "cannot be made"),
        (Path(":memory:"), UsageError, "no file that could hold a database"),
    ]

    for path, kind, why in cases:
        with pytest.raises(kind, match=why) as caught:
            migrate.ensure(Database(f"sqlite:///{path}"))
        assert "\n" not in str(caught.value)

    assert text.read_text() == "this is not a database"


def test_a_damaged_file_is_said_so(tmp_path: Path) -> None:
    """It has the right beginning and nothing sensible after it."""
    path = tmp_path / "spool.db"
    with opened(sqlite_url(path)) as database:
        migrate.ensure(database)
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff" * 4096)

    with opened(sqlite_url(path)) as database, pytest.raises(Unavailable, match="cannot be read"):
        migrate.ensure(database)


def test_another_programs_file_is_left_as_it_is(tmp_path: Path) -> None:
    """We add no tables to it and do not even change how it keeps its journal."""
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()

    with opened(sqlite_url(path)) as database:
        for ask in (migrate.current, migrate.ensure):
            with pytest.raises(Unavailable, match="belongs to another program"):
                ask(database)

    assert path.read_bytes() == before


def test_looking_at_a_database_does_not_load_alembic(database_url: str) -> None:
    """A command that only reads starts without it."""
    program = (
        "import sys; from tokenspool import migrate; from tokenspool.database import Database\n"
        "migrate.ensure(Database(sys.argv[1])); print('alembic' in sys.modules)"
    )

    said = subprocess.run(
        [sys.executable, "-P", "-c", program, database_url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert said == "False\n"
