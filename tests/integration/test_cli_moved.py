"""Folders that were moved, copied, emptied, or are somebody's own: what is written, and where."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator import process as simulators
from simulator.process import Simulator
from simulator.settings import SimSettings
from tests.integration.command import Quick, Said, Shell, prompts
from tests.integration.test_cli_run import expected, wait_for

NAMES = ["alpha", "beta"]


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    """Serve answers of 60 tokens."""
    with simulators.start(SimSettings(tokens=60)) as running:
        yield running


@pytest.fixture
def spool(quick: Quick) -> Quick:
    """Give the command, and an input for it."""
    quick.write_lines("in.jsonl", *prompts(NAMES))
    return quick


def work(quick: Quick, sim: Simulator, *args: str, code: int = 0) -> Said:
    """Run against the simulator."""
    return quick("run", *args, "--model", "m", "--base-url", sim.base_url, code=code)


def outputs(quick: Quick, folder: str) -> list[str]:
    """Say where the jobs of a folder write to."""
    jobs = quick("jobs", "-o", folder, "--json", code=0).document["jobs"]
    return sorted(job["output"] for job in jobs)


def test_somebodys_own_file_is_never_replaced(spool: Quick, sim: Simulator) -> None:
    """Nothing is enqueued and nothing asked; the file is as it was."""
    own = spool.folder / "own"
    own.mkdir()
    (own / "beta.md").write_text("MINE\n")
    before = sim.stats()["generated"]

    said = work(spool, sim, "in.jsonl", "-o", "own", code=2)

    assert f"in.jsonl:2: the output 'beta.md' would replace {own}/beta.md" in said.err
    assert "so nothing was enqueued" in said.err
    assert (own / "beta.md").read_text() == "MINE\n"
    assert sim.stats()["generated"] == before
    assert outputs(spool, "own") == []


@pytest.mark.parametrize("how", ["other database", "deleted", "emptied"])
def test_texts_outlive_their_database(spool: Quick, sim: Simulator, how: str) -> None:
    """A database that does not know the texts in its folder does not replace them either."""
    work(spool, sim, "in.jsonl", "-o", "out")
    before = sim.stats()["generated"]
    for file in (spool.folder / "out/.tokenspool").iterdir():
        if how == "deleted":
            file.unlink()
        elif how == "emptied":
            os.truncate(file, 0)
    other = ("--db", str(spool.folder / "other.db")) if how == "other database" else ()

    said = work(spool, sim, "in.jsonl", "-o", "out", *other, code=2)

    assert "would replace" in said.err
    assert sim.stats()["generated"] == before


@pytest.mark.parametrize("command", ["status", "jobs", "verify", "run"])
def test_an_empty_database_is_told(spool: Quick, sim: Simulator, command: str) -> None:
    """One sentence with the remedy, not a spool without jobs."""
    work(spool, sim, "in.jsonl", "-o", "out")
    for file in (spool.folder / "out/.tokenspool").iterdir():
        os.truncate(file, 0)

    said = spool(command, "-o", "out", code=4)

    assert "out/.tokenspool/spool.db is an empty file" in said.sentence
    assert "put back a copy" in said.sentence


def test_a_killed_run_goes_on_where_its_folder_was_moved_to(shell: Shell, quick: Quick) -> None:
    """In the new place, byte for byte, from what was saved; the old place stays away."""
    shell.write_lines("in.jsonl", *prompts(NAMES))
    args = ("run", "in.jsonl", "--resume", "prefill", "--model", "m", "--base-url")
    with simulators.start(SimSettings(tokens=3000, rate=100)) as slow:
        with shell.started(*args, slow.base_url, "-o", "old") as first:
            for name in NAMES:
                wait_for(shell.folder / f"old/{name}.md.e1.part", contains=b" ")
            first.kill()
            first.wait()
        whole = {name: expected(slow, f"Write about {name}.") for name in NAMES}
    (shell.folder / "below").mkdir()
    (shell.folder / "old").rename(shell.folder / "below/new")

    with simulators.start(SimSettings(tokens=3000)) as fast:
        said = quick(*args, fast.base_url, "-o", "below/new", code=0)

    new = shell.folder / "below/new"
    assert f"this folder was {shell.folder}/old; its jobs belong to {new}" in said.err
    assert "0 new jobs, 2 " in said.err
    assert {path.name: path.read_text() for path in new.glob("*.md*")} == {
        f"{name}.md": text for name, text in whole.items()
    }
    assert not (shell.folder / "old").exists()
    assert "this folder was" not in quick("verify", "-o", "below/new", code=0).err


def test_a_copy_is_a_folder_of_its_own(spool: Quick, sim: Simulator) -> None:
    """What is verified, repaired and written is the copy's; the original stays as it is."""
    work(spool, sim, "in.jsonl", "-o", "out")
    shutil.copytree(spool.folder / "out", spool.folder / "copy")
    (spool.folder / "copy/alpha.md").unlink()

    said = spool("verify", "-o", "copy", code=1)
    assert f"{spool.folder}/copy/alpha.md: missing" in said.err
    spool.write_lines("more.jsonl", *prompts(["gamma"]))
    work(spool, sim, "more.jsonl", "-o", "copy")

    assert (spool.folder / "copy/gamma.md").exists()
    assert not (spool.folder / "out/gamma.md").exists()
    assert spool("verify", "-o", "out", code=0).err.startswith("2 files checked: 2 ok")
    assert outputs(spool, "out") == [f"{spool.folder}/out/{name}.md" for name in NAMES]


def test_nothing_is_moved_below_a_runner(spool: Quick, sim: Simulator) -> None:
    """Whoever works there may know the folder by another name, as a container does."""
    work(spool, sim, "in.jsonl", "-o", "out")
    (spool.folder / "out").rename(spool.folder / "new")

    with (spool.folder / "new/.tokenspool/spool.db.runner").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = spool("status", "-o", "new", code=0)
        assert f"the outputs still belong to {spool.folder}/out" in said.err
        assert outputs(spool, "new")[0] == f"{spool.folder}/out/alpha.md"

    assert outputs(spool, "new")[0] == f"{spool.folder}/new/alpha.md"


def test_a_folder_has_one_name_whatever_links_lead_to_it(spool: Quick, sim: Simulator) -> None:
    """By a link above it or without: the same jobs."""
    (spool.folder / "real").mkdir()
    (spool.folder / "link").symlink_to("real")

    work(spool, sim, "in.jsonl", "-o", "link/out")
    said = work(spool, sim, "in.jsonl", "-o", "real/out")

    assert "2 there already" in said.err
    assert outputs(spool, "link/out")[0] == f"{spool.folder}/real/out/alpha.md"


def test_a_folder_that_is_a_link_itself_is_refused(spool: Quick, sim: Simulator) -> None:
    """Texts must not land somewhere else because of what somebody put there."""
    (spool.folder / "real").mkdir()
    (spool.folder / "link").symlink_to("real")

    said = work(spool, sim, "in.jsonl", "-o", "link", code=2)

    assert "name the folder itself" in said.sentence


def test_the_home_of_a_folder_is_kept_from_its_beginning(spool: Quick) -> None:
    """Also by an enqueue alone, readable by its owner alone."""
    spool("enqueue", "in.jsonl", "-o", "out", "--model", "m", code=0)

    home = spool.folder / "out/.tokenspool/home"

    assert Path(home.read_text().rstrip("\n")) == spool.folder / "out"
    assert home.stat().st_mode & 0o777 == 0o600
