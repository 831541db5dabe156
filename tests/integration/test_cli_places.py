"""Outputs, exports and hints: where something is, what stands in its place, what to paste."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator

import pytest

from cli.invocation import Invocation
from cli.options import same_database
from tests.contract.seeds import Seeds
from tests.integration.command import Quick
from tokenspool import migrate
from tokenspool.database import Database, sqlite_url


@pytest.fixture
def seeds(quick: Quick) -> Iterator[Seeds]:
    """Give the folder of a run, `my out`, to be filled with jobs of batch `b`."""
    out = quick.folder / "my out"
    out.mkdir()
    database = Database(sqlite_url(out / ".tokenspool/spool.db"))
    migrate.ensure(database)
    yield Seeds(database=database, root=out)
    database.close()


def pasted(quick: Quick, said: str) -> str:
    """Run the command that a sentence has between backticks; give what it says."""
    _, command, *_ = said.split("`")
    return quick(*shlex.split(command)[1:], code=0).err


# --- export -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--db", "my out", "-o", "my out"), "here -o is the FILE for the answers"),
        (("--db", "my out", "-o", "no/x.jsonl"), "-o no/x.jsonl: there is no folder no"),
        (("-o", "my out"), "--db 'my out' names the database of a run"),
        (("-o", "x.jsonl"), "--db DIR names the folder of a run (-o is the answers)"),
        (("--db", "my out", "-o", "x" * 300), "the answers cannot be written"),
    ],
)
def test_an_export_that_cannot_be_written_is_told_first(
    quick: Quick, seeds: Seeds, args: tuple[str, ...], reason: str
) -> None:
    """Exit 2 with the name that was given, never a temporary one."""
    seeds.done("a", "x")

    said = quick("export", "b", *args, code=2)

    assert reason in said.sentence
    assert ".tmp" not in said.err
    assert not (quick.folder / "x.jsonl").exists()


def test_an_export_onto_a_full_device_names_it_and_claims_nothing(
    quick: Quick, seeds: Seeds
) -> None:
    """What a buffer took is not written yet."""
    seeds.done("a", "x")

    said = quick("export", "b", "--db", "my out", "-o", "/dev/full", code=4)

    full = os.strerror(errno.ENOSPC)
    assert f"-o /dev/full: the answers cannot be written: {full}; mend that" in said.sentence
    assert "exported" not in said.err


# --- verify -------------------------------------------------------------------------------------
def test_a_folder_in_an_outputs_place_is_no_case_for_a_repair(quick: Quick, seeds: Seeds) -> None:
    """It is told in one sentence, with and without --repair, and no repair is recommended."""
    seeds.done("a", "x")
    (quick.folder / "my out/a.md").unlink()
    (quick.folder / "my out/a.md").mkdir()

    for more in ((), ("--repair",)):
        said = quick("verify", "-o", "my out", *more, code=1)

        assert (
            "a.md: damaged, it is a folder, and cannot be repaired: move the folder away first\n"
        ) in said.err
        assert "`" not in said.err
        assert "Errno" not in said.err


# --- hints --------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", [("-o", "my out"), ("--db", "my out")])
def test_what_a_sentence_recommends_can_be_pasted(
    quick: Quick, seeds: Seeds, where: tuple[str, str]
) -> None:
    """It means the same folder and the same jobs."""
    seeds.done("a", "x")
    seeds.enqueue("c d")
    (quick.folder / "my out/a.md").unlink()

    said = quick("verify", *where, "--batch", "b", code=1).err
    assert "1 repaired" in pasted(quick, said)
    said = quick("cancel", *where, "--job", "c d", code=0).err
    assert "1 job queued again" in pasted(quick, said)


def test_a_hint_never_shows_a_password() -> None:
    """The URL of a database may hold one; what is printed ends up in logs."""
    asked = Invocation(db="postgresql+psycopg://me:secret@db/spool")

    assert same_database(asked, None) == " --db URL"


@pytest.mark.parametrize(
    ("command", "flags"),
    [("cancel", "--batch B or --job J"), ("resume", "--error KIND or --all-failed")],
)
def test_a_command_without_jobs_names_its_own_flags(
    quick: Quick, seeds: Seeds, command: str, flags: str
) -> None:
    """Not those of another command."""
    seeds.enqueue("a")

    assert flags in quick(command, "-o", "my out", code=2).sentence
