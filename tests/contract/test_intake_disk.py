"""What lies in the output folder already is never replaced by a new job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.desk import Desk, many, prompts
from tokenspool.store.intake import disk


def put(root: Path, *names: str) -> None:
    """Put files of somebody's into a folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("MINE")


def test_a_new_job_whose_output_is_there_is_refused_with_all_others(
    desk: Desk, tmp_path: Path
) -> None:
    """Told by line: what is there and the remedies; nothing is taken."""
    put(tmp_path / "own", "b.md")

    answer = desk.take(*prompts("a", "b"), root=f"{tmp_path}/own")

    (bad,) = answer.errors
    assert (bad.line, answer.accepted) == (2, False)
    assert f"would replace {tmp_path}/own/b.md" in bad.reason
    assert "move it away, or use another -o or --name" in bad.reason
    assert desk.is_untouched()


@pytest.mark.parametrize("what", ["link", "folder"])
def test_whatever_lies_there_counts(desk: Desk, tmp_path: Path, what: str) -> None:
    """A link into nowhere is somebody's as well, and so is a folder."""
    path = tmp_path / "own" / "a.md"
    path.parent.mkdir()
    if what == "link":
        path.symlink_to("nowhere")
    else:
        path.mkdir()

    assert desk.take(*prompts("a"), root=f"{tmp_path}/own").invalid == 1


@pytest.mark.parametrize("remembered", [1, 200_000])
def test_the_good_lines_can_be_taken_without_the_others(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    """In folders below as well, and in one that is too big to be remembered."""
    monkeypatch.setattr(disk, "_REMEMBERED", remembered)
    put(tmp_path / "own", "b.md", "x/c.md", "other.txt")
    lines = [*prompts("a", "b"), *prompts("c", output="x/c.md"), *prompts("d", output="x/d.md")]

    answer = desk.take(*lines, root=f"{tmp_path}/own", skip_invalid=True)

    assert [bad.line for bad in answer.errors] == [2, 3]
    assert desk.ids() == ["a", "d"]


def test_the_output_of_a_job_that_is_there_is_its_own(desk: Desk, tmp_path: Path) -> None:
    """The same line again stays the same job, published or not."""
    desk.take(*prompts("a"), root=f"{tmp_path}/own")
    put(tmp_path / "own", "a.md")

    answer = desk.take(*prompts("a"), root=f"{tmp_path}/own")

    assert (answer.same, answer.new, answer.accepted) == (1, 0, True)


def test_a_dry_run_finds_it_too(desk: Desk, tmp_path: Path) -> None:
    """What would be refused is said before."""
    put(tmp_path / "own", "a.md")

    assert desk.take(*prompts("a"), root=f"{tmp_path}/own", dry_run=True).invalid == 1


def test_a_name_is_taken_if_the_disk_says_so(desk: Desk, tmp_path: Path) -> None:
    """Names that differ in case are one file on some disks only, and only there refused."""
    put(tmp_path / "own", "A.md")

    answer = desk.take(*prompts("a"), root=f"{tmp_path}/own")

    assert answer.accepted is not (tmp_path / "own" / "a.md").exists()


def test_a_folder_is_listed_once_for_many_lines(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of 100,000 outputs is neither listed nor asked for each line."""
    put(tmp_path / "own", *(f"{number}.txt" for number in range(100)))
    asked: list[str] = []
    scandir, lexists = os.scandir, os.path.lexists

    def listing(folder: Any) -> Iterator[Any]:
        asked.append(str(folder))
        return scandir(folder)

    def looking(path: Any) -> bool:
        asked.append(str(path))
        return lexists(path)

    monkeypatch.setattr(os, "scandir", listing)
    monkeypatch.setattr(os.path, "lexists", looking)

    assert desk.take(*many(2_500), root=f"{tmp_path}/own").new == 2_500

    assert [path for path in asked if path.startswith(f"{tmp_path}/own")] == [f"{tmp_path}/own/"]
