"""Delivery: the disk shows what the journal holds, late if it must, never less and never other."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.outputs import delivery as delivery_module
from pipeline.outputs.delivery import Delivery
from pipeline.outputs.folder import FolderOutput, FolderPart
from pipeline.ports import no_fault
from tests.unit.pipeline.waiting import until
from tokenspool.database import DatabaseError
from tokenspool.errors import TokenspoolError
from tokenspool.model import Checkpoint, Endpoint, Entry, Job, Kind, Segment
from tokenspool.store.publishing import Published
from tokenspool.store.text import DamagedError

FULL = OSError(errno.ENOSPC, "No space left on device")
AWAY = DatabaseError("spool.db", "database is locked", passing=True)


@dataclass
class Journal:
    """The committed text of some jobs, in memory."""

    texts: dict[tuple[int, int], bytes] = field(default_factory=dict)
    #: Raised by the next reads, in order; None lets one pass.
    errors: list[Exception | None] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)
    #: Claims that somebody else took over.
    lost: set[tuple[int, int]] = field(default_factory=set)
    #: How many bytes were read back.
    read: int = 0

    def commit(self, entries: Sequence[Entry]) -> frozenset[tuple[int, int]]:
        """See `ports.Store`."""
        raise NotImplementedError

    def stands(self, job_id: int, epoch: int) -> bool:
        """See `ports.Store`."""
        return (job_id, epoch) not in self.lost

    def born(self, job_id: int) -> str:
        """See `ports.Store`."""
        raise NotImplementedError

    def text(
        self, job_id: int, *, edition: int, kind: Kind, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """See `ports.Store`: seven bytes at a time."""
        assert kind is Kind.TEXT
        if self.errors and (error := self.errors.pop(0)):
            raise error
        if job_id in self.damaged:
            msg = f"job {job_id}: the text segment at byte 0 is damaged"
            raise DamagedError(msg)
        data = self.texts.get((job_id, edition), b"")[start:stop]
        for at in range(0, len(data), 7):
            self.read += len(data[at : at + 7])
            yield data[at : at + 7]


class Disk(FolderOutput):
    """A folder on a disk that can be full, hang, or forget."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.full = self.lies = False
        #: Cleared: every write hangs until it is set.
        self.runs = threading.Event()
        self.runs.set()

    def open(self, job: Job) -> FolderPart:
        """See `ports.Output`."""
        plain = super().open(job)
        return DiskPart(self, plain, job.epoch)


class DiskPart(FolderPart):
    """A part on that disk."""

    def __init__(self, disk: Disk, plain: FolderPart, epoch: int) -> None:
        super().__init__(plain.folder, plain.name.removesuffix(f".e{epoch}.part"), epoch)
        self._disk = disk

    def write(self, data: bytes, *, at: int) -> None:
        """See `ports.Part`."""
        self._disk.runs.wait(20)
        if self._disk.full:
            super().write(data[: len(data) // 2], at=at)  # it fills up in the middle
            raise FULL
        super().write(b"\0" * len(data) if self._disk.lies else data, at=at)


@dataclass
class Bench:
    """A delivery of jobs into a folder, and the journal that it shows."""

    root: Path
    journal: Journal = field(default_factory=Journal)
    jobs: dict[int, Job] = field(default_factory=dict)
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.disk = Disk(str(self.root))
        self.delivery = Delivery(self.journal, lambda _: self.disk, threads=1)

    def open(self, job_id: int = 1, *, epoch: int = 1, edition: int = 1, text: bytes = b"") -> Job:
        """Claim a job that has some text already."""
        checkpoint = Checkpoint(epoch=epoch, edition=edition, offsets={Kind.TEXT: len(text)})
        self.journal.texts[job_id, edition] = text
        job = Job(
            id=job_id,
            batch_id=1,
            custom_id=str(job_id),
            endpoint=Endpoint(url="http://x/v1", model="m"),
            api="chat",
            body={},
            root=str(self.root),
            name=f"{job_id}.md",
            epoch=epoch,
            checkpoint=checkpoint,
        )
        self.jobs[job_id], self.checkpoints[job_id] = job, checkpoint
        self.delivery.open(job)
        return job

    def commit(self, *says: tuple[int, bytes], edition: int | None = None) -> None:
        """Let one beat commit more text of some jobs, and show it."""
        entries = []
        for job_id, data in says:
            before = self.checkpoints[job_id]
            place = before.edition if edition is None else edition
            start = before.text if place == before.edition else 0
            after = Checkpoint(
                epoch=before.epoch,
                seq=before.seq + 1,
                edition=place,
                offsets={Kind.TEXT: start + len(data)},
            )
            self.journal.texts[job_id, place] = (
                self.journal.texts.get((job_id, place), b"")[:start] + data
            )
            segment = Segment(kind=Kind.TEXT, edition=place, seq=after.seq, start=start, data=data)
            entries.append(
                Entry(
                    job=self.jobs[job_id],
                    worker="w",
                    before=before,
                    after=after,
                    segments=(segment,) if data else (),
                )
            )
            self.checkpoints[job_id] = after
        self.delivery.show(entries)

    def committed(self, job_id: int = 1) -> bytes:
        """Give a job's text as the journal holds it."""
        return self.journal.texts[job_id, self.checkpoints[job_id].edition]

    async def publish(self, job_id: int = 1) -> Published | None:
        """Publish a job."""
        return await asyncio.wait_for(self.delivery.publish(self.jobs[job_id]), 10)

    def file(self, job_id: int = 1) -> bytes:
        """Read the output."""
        return (self.root / f"{job_id}.md").read_bytes()

    def part(self, job_id: int = 1, epoch: int = 1) -> bytes:
        """Read the part; nothing while there is none."""
        path = self.root / f"{job_id}.md.e{epoch}.part"
        return path.read_bytes() if path.exists() else b""

    async def written(self) -> None:
        """Return when the thread has done all that was asked of it."""
        done = threading.Event()
        self.delivery._threads[0].queue.put(done.set)
        await until(done.is_set)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Make a bench whose retries do not wait long."""
    monkeypatch.setattr(delivery_module, "RETRY_S", 0.001)
    monkeypatch.setattr(delivery_module, "RETRY_CAP_S", 0.002)
    bench = Bench(tmp_path)
    yield bench
    bench.disk.runs.set()
    assert bench.delivery.stop(5)


# --- writing --------------------------------------------------------------------------------------
async def test_the_part_follows_every_beat(bench: Bench) -> None:
    """From memory: nothing is read back while the disk keeps up."""
    bench.open()
    await bench.written()
    for data in (b"one ", b"two ", b"three"):
        bench.commit((1, data))
        await bench.written()
        assert bench.part() == bench.committed()

    assert bench.journal.read == 0
    published = await bench.publish()

    assert published is not None
    assert bench.file() == b"one two three"
    assert (published.size, published.sha256) == (13, hashlib.sha256(bench.file()).digest())


async def test_a_later_claim_builds_its_part_from_the_journal(bench: Bench) -> None:
    """What the claims before it committed stands in front of its own text."""
    bench.open(text=b"saved before, ")
    bench.commit((1, b"and more"))

    await bench.publish()

    assert bench.file() == b"saved before, and more"


async def test_an_answer_without_text_is_published_too(bench: Bench) -> None:
    """There was nothing to say; the file says so."""
    bench.open()

    published = await bench.publish()

    assert published is not None
    assert (published.size, bench.file()) == (0, b"")


async def test_a_new_edition_begins_the_part_anew(bench: Bench) -> None:
    """Of the old one nothing stays, also where the new one is shorter."""
    bench.open()
    bench.commit((1, b"a long first edition"))
    bench.commit((1, b"short"), edition=2)
    await bench.written()
    assert bench.part() == b"short"

    bench.commit((1, b"er"))
    await bench.publish()

    assert bench.file() == b"shorter"


async def test_an_empty_new_edition_empties_the_part(bench: Bench) -> None:
    """The old text is not this edition's, even before its first byte."""
    bench.open()
    bench.commit((1, b"old text"))
    bench.commit((1, b""), edition=2)
    await bench.written()

    assert bench.part() == b""


async def test_jobs_that_are_let_go_keep_their_parts_and_get_no_more(bench: Bench) -> None:
    """Given back: whoever claims it next goes on in a part of its own."""
    job = bench.open()
    bench.commit((1, b"text"))
    bench.delivery.close(job)
    bench.commit((1, b" of nobody"))
    await bench.written()

    assert bench.part() == b"text"
    assert await bench.publish() is None


# --- a disk in trouble ----------------------------------------------------------------------------
async def test_a_full_disk_while_writing_is_made_good_when_there_is_room(bench: Bench) -> None:
    """The stream is not touched; what was half written is written again from the journal."""
    bench.open()
    bench.commit((1, b"one "))
    await bench.written()
    bench.disk.full = True
    bench.commit((1, b"two "))
    bench.commit((1, b"three "))
    await bench.written()

    bench.disk.full = False
    bench.commit((1, b"four"))
    await bench.written()

    assert bench.part() == b"one two three four"


async def test_a_full_disk_at_publishing_is_waited_for(bench: Bench) -> None:
    """By itself, with the reason shown meanwhile, and without costing the job anything."""
    bench.disk.full = True
    bench.open()
    bench.commit((1, b"text"))
    publishing = asyncio.ensure_future(bench.publish())
    await until(lambda: bench.delivery.trouble)

    assert bench.delivery.trouble == {1: f"{bench.root}: No space left on device"}
    assert not (bench.root / "1.md").exists()
    bench.disk.full = False

    assert await publishing
    assert bench.file() == b"text"
    assert bench.delivery.trouble == {}


async def test_a_lost_claim_never_overwrites_a_newer_output(bench: Bench) -> None:
    """It waited for room; meanwhile the job was begun anew and published by another claim."""
    bench.disk.full = True
    old = bench.open(text=b"old answer")
    publishing = asyncio.ensure_future(bench.delivery.publish(old))
    await until(lambda: bench.delivery.trouble)
    (bench.root / "1.md").write_bytes(b"newer answer")
    bench.journal.lost.add(old.owner_key)

    bench.disk.full = False
    published = await asyncio.wait_for(publishing, 10)

    assert published is None
    assert bench.file() == b"newer answer"
    assert [path.name for path in bench.root.iterdir()] == ["1.md"]


async def test_a_claim_that_is_let_go_while_its_name_is_synced_stops_no_other(bench: Bench) -> None:
    """One sync is for all of a folder; the part that has its name is closed after it."""
    jobs = [bench.open(job_id, text=b"text") for job_id in (1, 2)]
    named, held = threading.Event(), threading.Event()

    def hold(point: str) -> None:
        if point == "after_rename":
            named.set()
            held.wait(20)

    bench.delivery._fault = hold
    first, second = (asyncio.ensure_future(bench.delivery.publish(job)) for job in jobs)
    await until(named.is_set)
    first.cancel()
    bench.delivery.close(jobs[0])
    held.set()

    assert await asyncio.wait_for(second, 10)
    assert bench.file(2) == b"text"


async def test_an_output_folder_that_is_away_is_waited_for(bench: Bench) -> None:
    """An unmounted disk comes back."""
    bench.root.rmdir()
    bench.root.write_text("not a folder")
    bench.open()
    bench.commit((1, b"text"))
    publishing = asyncio.ensure_future(bench.publish())
    await until(lambda: bench.delivery.trouble)

    bench.root.unlink()

    assert await publishing
    assert bench.file() == b"text"


async def test_a_hung_disk_keeps_neither_the_loop_nor_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is dropped and read back; what waits does not grow with the time."""
    monkeypatch.setattr(delivery_module, "QUEUE_BYTES", 4096)
    bench.disk.runs.clear()
    for job_id in (1, 2):
        bench.open(job_id)
    for _ in range(500):
        bench.commit((1, b"x" * 100), (2, b"y" * 10))

    assert bench.delivery._queued <= 4096
    assert bench.delivery._threads[0].queue.qsize() < 100
    bench.disk.runs.set()
    await bench.publish(1)
    await bench.publish(2)

    assert bench.file(1) == b"x" * 50_000
    assert bench.file(2) == b"y" * 5000
    assert bench.delivery._queued == 0


async def test_after_a_hung_disk_the_queue_is_used_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has caught up, the part follows from memory as before."""
    monkeypatch.setattr(delivery_module, "QUEUE_BYTES", 1024)
    bench.disk.runs.clear()
    bench.open()
    for _ in range(100):
        bench.commit((1, b"x" * 100))
    bench.disk.runs.set()
    await bench.written()
    read = bench.journal.read

    bench.commit((1, b"more"))
    await bench.written()

    assert bench.part() == b"x" * 10_000 + b"more"
    assert bench.journal.read == read


# --- the check before publishing ------------------------------------------------------------------
@pytest.mark.parametrize("harm", ["change", "truncate", "append", "empty"])
async def test_a_part_that_somebody_touched_is_written_anew(bench: Bench, harm: str) -> None:
    """Every byte is compared with the journal before the output gets its name."""
    bench.open()
    bench.commit((1, b"one two three"))
    await bench.written()
    part = bench.root / "1.md.e1.part"
    match harm:
        case "change":
            part.write_bytes(b"one TWO three")
        case "truncate":
            os.truncate(part, 5)
        case "append":
            part.write_bytes(b"one two three four")
        case _:
            os.truncate(part, 0)

    published = await bench.publish()

    assert published is not None
    assert bench.file() == b"one two three"


async def test_a_part_that_vanished_means_that_the_job_was_lost(bench: Bench) -> None:
    """Another claim removed it: what that one publishes counts."""
    bench.open()
    bench.commit((1, b"text"))
    await bench.written()
    (bench.root / "1.md.e1.part").unlink()

    assert await bench.publish() is None
    assert not (bench.root / "1.md").exists()


async def test_a_job_that_was_cancelled_meanwhile_is_not_published(bench: Bench) -> None:
    """The disk was full for an hour, and a person has taken it away since."""
    bench.disk.full = True
    bench.open()
    bench.commit((1, b"text"))
    publishing = asyncio.ensure_future(bench.publish())
    await until(lambda: bench.delivery.trouble)

    bench.journal.lost = {(1, 1)}
    bench.disk.full = False

    assert await publishing is None
    assert not (bench.root / "1.md").exists()
    assert bench.delivery.trouble == {}


async def test_a_disk_that_gives_back_other_bytes_is_said_so(bench: Bench) -> None:
    """It is not published, and not tried for ever."""
    bench.disk.lies = True
    bench.open()
    bench.commit((1, b"text"))

    with pytest.raises(TokenspoolError, match="does not give back"):
        await bench.publish()

    assert not (bench.root / "1.md").exists()


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_a_failed_sync_is_followed_by_a_new_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """After an fsync error the pages may be gone while a second fsync says that all is well."""
    bench.open()
    bench.commit((1, b"text"))
    await bench.written()
    before = (bench.root / "1.md.e1.part").stat().st_ino
    (bench.root / "keeps the old inode").hardlink_to(bench.root / "1.md.e1.part")
    failed: list[bool] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        is_folder = os.fstat(handle).st_ino == bench.root.stat().st_ino
        if is_folder is (what == "folder") and not failed:
            failed.append(True)
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    published = await bench.publish()

    assert published is not None
    assert failed
    assert (bench.root / "1.md").stat().st_ino != before
    assert bench.file() == b"text"


# --- a journal in trouble -------------------------------------------------------------------------
async def test_a_database_that_is_away_delays_the_part_only(bench: Bench) -> None:
    """It is read back when the database is there again."""
    bench.journal.errors = [AWAY]
    bench.open(text=b"saved ")
    await bench.written()

    bench.commit((1, b"text"))
    await bench.written()

    assert bench.part() == b"saved text"


async def test_publishing_waits_for_the_database(bench: Bench) -> None:
    """As it waits for the disk."""
    bench.open()
    bench.commit((1, b"text"))
    await bench.written()
    bench.journal.errors = [AWAY, AWAY]

    assert await bench.publish()
    assert bench.file() == b"text"


async def test_a_damaged_journal_is_not_published_and_not_waited_for(bench: Bench) -> None:
    """Nothing mends it by itself."""
    bench.open()
    bench.commit((1, b"text"))
    await bench.written()
    bench.journal.damaged = {1}

    with pytest.raises(DamagedError):
        await bench.publish()

    assert not (bench.root / "1.md").exists()


async def test_one_damaged_job_takes_nothing_from_the_others(bench: Bench) -> None:
    """Behind it in the same beat: their last text is not forgotten, and not published short."""
    bench.journal.damaged = {1}
    bench.open(1, text=b"saved ")
    bench.open(2)
    bench.commit((2, b"one "))
    bench.commit((1, b"text"), (2, b"two"))
    await bench.written()

    assert bench.part(2) == b"one two"
    published = await bench.publish(2)

    assert published is not None
    assert (bench.file(2), published.size) == (b"one two", 7)
    assert bench.delivery._queued == 0


async def test_what_is_published_is_what_was_committed_not_what_was_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of ours between the two must never make a shorter text pass for the whole."""
    bench.open()
    bench.commit((1, b"one "))
    await bench.written()

    def broken(_point: str) -> None:
        monkeypatch.setattr(bench.delivery, "_fault", no_fault)
        msg = "unforeseen"
        raise RuntimeError(msg)

    monkeypatch.setattr(bench.delivery, "_fault", broken)
    bench.commit((1, b"two"))
    await bench.written()

    published = await bench.publish()

    assert published is not None
    assert (bench.file(), published.size) == (b"one two", 7)


# --- many at once ---------------------------------------------------------------------------------
async def test_many_outputs_share_one_sync_of_their_folder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none is answered before it: each is durable when it is called published."""
    synced: list[int] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        if os.fstat(handle).st_ino == bench.root.stat().st_ino:
            synced.append(sum(1 for path in bench.root.iterdir() if path.suffix == ".md"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    bench.disk.runs.clear()
    for job_id in range(1, 11):
        bench.open(job_id, text=b"text")
    publishing = [asyncio.ensure_future(bench.publish(job_id)) for job_id in range(1, 11)]
    await until(lambda: bench.delivery._threads[0].queue.qsize() == 19)
    bench.disk.runs.set()
    published = await asyncio.gather(*publishing)

    assert all(published)
    assert synced == [10]


async def test_a_seal_is_answered_though_the_work_behind_it_fails(bench: Bench) -> None:
    """Whatever goes wrong for another job, a published one is told of it."""
    bench.disk.runs.clear()
    bench.open(1, text=b"text")
    bench.open(2, text=b"damaged")
    publishing = asyncio.ensure_future(bench.publish(1))
    queue = bench.delivery._threads[0].queue
    await until(lambda: queue.qsize() == 2)  # the other's opening, the seal
    queue.put(_fail)
    bench.disk.runs.set()

    assert await publishing
    assert bench.file(1) == b"text"


def _fail() -> None:
    msg = "unforeseen"
    raise RuntimeError(msg)


async def test_the_rest_of_a_folder_is_answered_when_one_part_cannot_be_synced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each publish gets an answer, be it another try."""
    failed: list[FolderPart] = []
    real = FolderPart.sync_place

    def sync_place(part: FolderPart) -> None:
        if not failed:
            failed.append(part)
            raise OSError(errno.EIO, "Input/output error")
        real(part)

    monkeypatch.setattr(FolderPart, "sync_place", sync_place)
    bench.disk.runs.clear()
    for job_id in (1, 2, 3):
        bench.open(job_id, text=b"text")
    publishing = [asyncio.ensure_future(bench.publish(job_id)) for job_id in (1, 2, 3)]
    await until(lambda: bench.delivery._threads[0].queue.qsize() == 5)
    bench.disk.runs.set()

    assert all(await asyncio.gather(*publishing))
    assert failed
    assert [bench.file(job_id) for job_id in (1, 2, 3)] == [b"text"] * 3
