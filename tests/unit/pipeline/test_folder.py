"""A folder as output: parts of one claim each, published whole, and nothing outside it touched."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import psutil
import pytest

from pipeline.outputs.folder import FolderOutput, FolderPart, part_name
from pipeline.ports import PartVanishedError, no_fault
from tokenspool.model import Checkpoint, Endpoint, Job


def job(root: Path, name: str = "a.md", *, epoch: int = 1) -> Job:
    """Make a claimed job."""
    return Job(
        id=1,
        batch_id=1,
        custom_id="a",
        endpoint=Endpoint(url="http://x/v1", model="m"),
        api="chat",
        body={},
        root=str(root),
        name=name,
        epoch=epoch,
        checkpoint=Checkpoint(epoch=epoch),
    )


def begun(root: Path, name: str = "a.md", *, epoch: int = 1) -> FolderPart:
    """Begin a claim's part."""
    return FolderOutput(str(root)).open(job(root, name, epoch=epoch))


def names(folder: Path) -> list[str]:
    """Give what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_part_is_readable_while_it_grows_and_has_its_epoch_in_its_name(tmp_path: Path) -> None:
    """Whoever looks sees the text, and whose it is."""
    part = begun(tmp_path, epoch=3)

    part.write(b"one ", at=0)
    part.write(b"two", at=4)

    assert names(tmp_path) == ["a.md.e3.part"]
    assert (tmp_path / "a.md.e3.part").read_bytes() == b"".join(part.read()) == b"one two"
    part.close()


def test_publishing_leaves_the_output_and_nothing_else(tmp_path: Path) -> None:
    """One rename: there is no moment with half of a file under the final name."""
    part = begun(tmp_path)
    part.write(b"text", at=0)

    part.publish(no_fault)
    part.close()

    assert names(tmp_path) == ["a.md"]
    assert (tmp_path / "a.md").read_bytes() == b"text"


def test_an_answer_without_text_is_an_empty_file(tmp_path: Path) -> None:
    """Done means that there is a file."""
    part = begun(tmp_path)

    part.publish(no_fault)
    part.close()

    assert (tmp_path / "a.md").read_bytes() == b""


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync, rename, fsync of the folder: in this order, or a power cut leaves an empty file."""
    part = begun(tmp_path)
    part.write(b"text", at=0)
    happened: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        happened.append("folder" if handle == part.folder else "file")
        real_fsync(handle)

    def replace(*args: object, **kwargs: object) -> None:
        happened.append("rename")
        real_replace(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    part.publish(happened.append)
    part.sync_place()
    part.close()

    assert happened == ["file", "after_fsync", "rename", "after_rename", "folder"]


def test_sub_folders_are_made_and_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new folder's own name must survive a power cut before a file in it is called done."""
    synced: list[int] = []
    real_fsync = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        real_fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    part = begun(tmp_path / "out", "x/y/a.md")
    part.write(b"text", at=0)
    made = list(synced)
    part.publish(no_fault)
    part.close()

    root = tmp_path / "out"
    assert made == [root.stat().st_ino, (root / "x").stat().st_ino]
    assert (root / "x" / "y" / "a.md").read_bytes() == b"text"


def test_a_claim_removes_the_parts_of_older_claims_and_no_others(tmp_path: Path) -> None:
    """Nobody reads on in a file that nobody writes any more."""
    for name in ("a.md.e1.part", "a.md.e4.part", "a.md.e6.part", "a.md.e9.part", "b.md.e1.part"):
        (tmp_path / name).write_text("old")

    part = begun(tmp_path, epoch=6)
    part.write(b"new", at=0)
    part.close()

    assert names(tmp_path) == ["a.md.e6.part", "a.md.e9.part", "b.md.e1.part"]
    assert (tmp_path / "a.md.e6.part").read_bytes() == b"new"


def test_a_part_that_a_slow_old_worker_makes_late_is_gone_when_the_answer_is_there(
    tmp_path: Path,
) -> None:
    """It was drained, its job taken by another at once, and only then its disk had time."""
    old, new = begun(tmp_path, epoch=1), begun(tmp_path, epoch=2)
    new.write(b"text", at=0)
    old.write(b"te", at=0)

    new.publish(no_fault)

    assert names(tmp_path) == ["a.md"]
    old.close()
    new.close()


def test_a_part_that_vanished_before_the_rename_was_lost_to_another(tmp_path: Path) -> None:
    """The newer claim took it away: what it publishes is what counts."""
    old = begun(tmp_path, epoch=1)
    old.write(b"old", at=0)
    new = begun(tmp_path, epoch=2)
    new.write(b"new", at=0)

    with pytest.raises(PartVanishedError):
        old.publish(no_fault)

    new.publish(no_fault)
    assert (tmp_path / "a.md").read_bytes() == b"new"
    old.close()
    new.close()


def test_who_lost_the_job_never_writes_into_the_files_of_another(tmp_path: Path) -> None:
    """Law 3: an old claim's descriptor leads to a file without a name."""
    old = begun(tmp_path, epoch=1)
    old.write(b"old", at=0)
    new = begun(tmp_path, epoch=2)
    new.write(b"new", at=0)

    old.write(b"OLD TEXT", at=0)

    assert names(tmp_path) == ["a.md.e2.part"]
    assert b"".join(new.read()) == b"new"
    old.close()
    new.close()


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_link_planted_as_a_part_is_not_written_through(tmp_path: Path, link: str) -> None:
    """What it leads to belongs to somebody else."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    root = tmp_path / "out"
    root.mkdir()
    planted = root / part_name("a.md", 1)

    def plant() -> None:
        if link == "symbolic":
            planted.symlink_to(victim)
        else:
            planted.hardlink_to(victim)

    plant()
    part = begun(root)  # removes what lay there
    plant()  # and somebody is quicker than the first write

    with pytest.raises(OSError) as caught:  # noqa: PT011 - either of two
        part.write(b"text", at=0)
    part.close()

    assert caught.value.errno in {errno.EEXIST, errno.ELOOP}
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("depth", ["x", "x/y"])
def test_a_link_planted_as_a_sub_folder_is_not_followed(tmp_path: Path, depth: str) -> None:
    """Nothing escapes the output folder."""
    outside, root = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (root / depth).parent.mkdir(parents=True)
    (root / depth).symlink_to(outside)

    with pytest.raises(OSError):  # noqa: PT011 - ELOOP or ENOTDIR, by the system
        begun(root, f"{depth}/a.md")

    assert names(outside) == []


def test_a_link_in_the_place_of_the_output_is_replaced_not_followed(tmp_path: Path) -> None:
    """The output is a file of our own."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.md").symlink_to(victim)
    part = begun(tmp_path / "out")
    part.write(b"text", at=0)

    part.publish(no_fault)
    part.close()

    assert victim.read_text() == "precious"
    assert not (tmp_path / "out" / "a.md").is_symlink()


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    """Where the outputs go is the person's to say."""
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")

    part = begun(tmp_path / "out")
    part.publish(no_fault)
    part.close()

    assert names(tmp_path / "real") == ["a.md"]


def test_beginning_again_leaves_nothing_of_before(tmp_path: Path) -> None:
    """A new edition is often shorter."""
    part = begun(tmp_path)
    part.write(b"a long first edition", at=0)

    part.truncate()
    part.write(b"short", at=0)

    assert b"".join(part.read()) == b"short"
    part.close()


def test_parts_let_go_of_their_descriptors(tmp_path: Path) -> None:
    """A hundred thousand jobs must not run out of them, failed openings included."""
    before = psutil.Process().num_fds()
    (tmp_path / "x").symlink_to(tmp_path)

    for epoch in range(1, 20):
        part = begun(tmp_path, epoch=epoch)
        part.write(b"text", at=0)
        part.close()
        part.close()
        with pytest.raises(OSError):  # noqa: PT011 - as above
            begun(tmp_path, "x/a.md", epoch=epoch)

    assert psutil.Process().num_fds() == before
