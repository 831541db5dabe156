"""What is wrong around it is seen: by the doctor, by `status`, by `db`, from a read-only disk."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from simulator import process as simulators
from simulator.settings import SimSettings
from tests.contract.seeds import Seeds
from tests.integration.command import Quick, Said
from tokenspool import database as databases
from tokenspool import migrate
from tokenspool.database import Database, sqlite_url
from worker.lock import RunnerLock

SPOOL = Path("out/.tokenspool/spool.db")


@pytest.fixture
def seeds(quick: Quick) -> Iterator[Seeds]:
    """Give the folder of a run, `out`, to be filled with jobs of batch `b`."""
    out = quick.folder / "out"
    out.mkdir()
    database = Database(sqlite_url(quick.folder / SPOOL))
    migrate.ensure(database)
    yield Seeds(database=database, root=out)
    database.close()


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """Give an endpoint that is well."""
    with simulators.start(SimSettings()) as sim:
        yield sim.base_url


@pytest.fixture
def examine(quick: Quick, base_url: str) -> Examine:
    """Give the doctor, asked about `out`."""
    return Examine(quick, base_url)


class Examine:
    """The doctor, asked about `out`, before an endpoint that is well."""

    def __init__(self, quick: Quick, base_url: str) -> None:
        """Ask here."""
        self._quick = quick
        self._options = ("--base-url", base_url, "--model", "simulated", "-o", "out")

    def __call__(self, name: str, *, code: int) -> dict[str, Any]:
        """Give one check, all others being well."""
        said: Said = self._quick("doctor", *self._options, "--json", code=code)
        failed = {check["name"] for check in said.document["checks"] if check["state"] == "failed"}
        assert failed == ({name} if code else set())
        check: dict[str, Any] = next(c for c in said.document["checks"] if c["name"] == name)
        return check


# --- doctor -------------------------------------------------------------------------------------
def test_a_whole_database_is_well_and_left_as_it_is(seeds: Seeds, examine: Examine) -> None:
    """The write that is tried is rolled back."""
    seeds.enqueue("a")
    files = [SPOOL, SPOOL.with_name("spool.db-wal")]
    before = [file.read_bytes() for file in files]

    assert examine("database", code=0)["found"].endswith("spool.db, revision 0002")

    assert [file.read_bytes() for file in files] == before
    assert sorted(p.name for p in Path("out").iterdir()) == [".tokenspool"]


def test_a_lost_table_is_named(seeds: Seeds, examine: Examine) -> None:
    """`run` would fail over it much later."""
    with seeds.database.write() as connection:
        connection.exec_driver_sql("DROP TABLE segment")

    check = examine("database", code=4)

    assert check["found"].endswith("lacks its tables segment")
    assert check["action"].startswith("restore it")


def test_overwritten_pages_are_found(quick: Quick, seeds: Seeds, examine: Examine) -> None:
    """A disk gave other bytes back; what is read at first is whole."""
    seeds.done("a", "text" * 50_000)
    seeds.database.close()
    path = quick.folder / SPOOL
    for name in ("spool.db-wal", "spool.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096] + b"\xa5" * 4096)

    assert " is damaged: " in examine("database", code=4)["found"]


def test_a_database_that_cannot_be_written_is_no_good(
    seeds: Seeds, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be read, and that is not enough for a run."""
    seeds.database.close()
    monkeypatch.setattr(databases, "is_on_read_only_disk", lambda _: True)

    assert "readonly" in examine("database", code=4)["found"]


def test_a_folder_that_takes_no_bytes_is_no_good(
    seeds: Seeds, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked by writing: what a disk says of itself is not what it takes."""
    del seeds

    def full(**_: object) -> object:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", full)
        check = examine("disk", code=4)
    assert "cannot be written to: Read-only file system" in check["found"]
    assert "-o DIR" in check["action"]

    usage = shutil.disk_usage("out")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    assert "0 B free" in examine("disk", code=4)["found"]


def test_a_database_that_is_not_there_yet_is_told_in_plain_words(
    quick: Quick, examine: Examine
) -> None:
    """It is no fault, and nothing is made."""
    found = examine("database", code=0)["found"]

    assert found.endswith(
        "without tables yet: `tokenspool run` or `enqueue` brings it to revision 0002"
    )
    assert not list(quick.folder.iterdir())


# --- keys ---------------------------------------------------------------------------------------
def test_a_key_that_cannot_be_sent_changes_nothing(
    quick: Quick, examine: Examine, base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor and a run say the same, and never the key; mended, the run works."""
    quick.write_lines("in.jsonl", {"custom_id": "a", "prompt": "Hello"})
    run = ("run", "in.jsonl", "-o", "out", "--base-url", base_url, "--model", "simulated")
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")

    check = examine("key", code=4)
    said = quick(*run, code=4)

    assert "the key in OPENAI_API_KEY holds characters that no key has" in check["found"]
    assert check["found"] in said.sentence
    assert "schl" not in said.err + str(check)
    assert quick("status", "-o", "out", "--json", code=0).document["jobs"]["total"] == 0
    monkeypatch.setenv("OPENAI_API_KEY", "sekret\r\n")
    quick(*run, code=0)


# --- status -------------------------------------------------------------------------------------
def test_a_killed_runner_is_shown_as_dead_at_once(quick: Quick, seeds: Seeds) -> None:
    """Its lease runs for half a minute more, but its lock is free."""
    seeds.enqueue("a")
    seeds.live_worker("w", tokens_per_s=10.0)
    runner = RunnerLock(quick.folder / SPOOL)

    runner.acquire()
    alive = quick("status", "-o", "out", "--json", code=0).document
    runner.release()
    dead = quick("status", "-o", "out", "--json", code=0).document
    lines = quick("status", "-o", "out", code=0).out.splitlines()

    assert ([w["state"] for w in alive["workers"]], alive["tokens_per_s"]) == (["running"], 10.0)
    assert ([w["state"] for w in dead["workers"]], dead["tokens_per_s"]) == (["dead"], None)
    (line,) = (line for line in lines if line.startswith("worker"))
    assert line.startswith("worker     w: dead, ")
    assert line.endswith("run it again to go on")
    assert not any(line.startswith("speed") for line in lines)


# --- a disk that is read-only -------------------------------------------------------------------
@pytest.mark.parametrize(
    "command", [["status"], ["jobs"], ["show", "a"], ["tail", "a"], ["verify"]]
)
def test_an_archive_can_be_looked_at(
    quick: Quick, seeds: Seeds, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Nothing is written, not even beside the database."""
    seeds.done("a", "some text")
    (quick.folder / "out/a.md").write_text("some text")
    quick("status", "-o", "out", code=0)
    seeds.database.close()
    folder = quick.folder / SPOOL.parent
    (folder / "spool.db.lock").unlink(missing_ok=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(databases, "is_on_read_only_disk", lambda _: True)

    said = quick(*command, "-o", "out", code=0)

    assert said.out or "1 ok" in said.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_stands_in_a_log_beside_an_archive_is_read(
    seeds: Seeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run's folder was copied as it lay: its last commits are only in the log."""
    seeds.enqueue("a")  # still open: nothing is checkpointed
    lock = seeds.root / ".tokenspool/spool.db.lock"
    lock.unlink(missing_ok=True)
    monkeypatch.setattr(databases, "is_on_read_only_disk", lambda _: True)

    with closing(Database(sqlite_url(seeds.root / ".tokenspool/spool.db"))) as archive:
        with archive.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM job").scalar() == 1
        with (
            pytest.raises(databases.DatabaseError, match="readonly"),
            archive.write() as connection,
        ):
            connection.exec_driver_sql("DELETE FROM job")
    assert not lock.exists()


# --- db -----------------------------------------------------------------------------------------
def test_a_named_database_that_is_not_there_has_no_version(quick: Quick) -> None:
    """As for every other command that looks; `db upgrade` makes one."""
    for options in (("-o", "nowhere"), ("--db", "nowhere.db")):
        assert "there is no database" in quick("db", "current", *options, code=2).sentence
    assert not list(quick.folder.iterdir())


@pytest.mark.parametrize("command", ["upgrade", "current"])
def test_the_help_of_db_names_what_stands_everywhere(quick: Quick, command: str) -> None:
    """As that of all commands does."""
    assert "Everywhere: --db URL" in quick("db", command, "--help", code=0).out
