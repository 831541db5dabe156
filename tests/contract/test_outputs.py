"""Outputs: what publishing promises, it promises of a folder and of an object store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.outputs import delivery as delivery_module
from pipeline.outputs.delivery import Delivery
from pipeline.outputs.objects import ONE_PUT_BYTES
from pipeline.outputs.uploads import AT_ONCE
from tests.s3 import S3
from tests.unit.pipeline.waiting import until
from tokenspool.model import Checkpoint, Endpoint, Entry, Job, Kind
from tokenspool.store.publishing import Published
from worker.wiring import output_for

ODD = "ch %41/ünï 日本😀 a+b&c=d#e?f*[g]{h}.md"
PIECE = 256 * 1024


@dataclass
class Journal:
    """The committed text of some jobs, in memory."""

    texts: dict[tuple[int, int], bytes] = field(default_factory=dict)
    lost: set[tuple[int, int]] = field(default_factory=set)
    #: Called when somebody asks whether a claim stands.
    asked: Callable[[], None] = lambda: None

    def commit(self, entries: Sequence[Entry]) -> frozenset[tuple[int, int]]:
        """See `ports.Store`."""
        raise NotImplementedError

    def stands(self, job_id: int, epoch: int) -> bool:
        """See `ports.Store`."""
        self.asked()
        return (job_id, epoch) not in self.lost

    def born(self, job_id: int) -> str:
        """See `ports.Store`."""
        return f"{job_id}.5"

    def text(
        self, job_id: int, *, edition: int, kind: Kind, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """See `ports.Store`."""
        assert kind is Kind.TEXT
        data = self.texts[job_id, edition][start:stop]
        for at in range(0, len(data), PIECE):
            yield data[at : at + PIECE]


@dataclass
class Place:
    """An output that a test can look into, and take away."""

    root: str
    read: Callable[[str], bytes | None]
    names: Callable[[], list[str]]
    take_away: Callable[[], None]
    bring_back: Callable[[], None]


def _folder(tmp_path: Path) -> Place:
    root = tmp_path / "out"

    def read(name: str) -> bytes | None:
        return (root / name).read_bytes() if (root / name).exists() else None

    def names() -> list[str]:
        return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())

    return Place(
        root=str(root),
        read=read,
        names=names,
        take_away=root.touch,
        bring_back=root.unlink,
    )


def _bucket(s3: S3) -> Place:
    prefix = "a prefix/of 100%"
    return Place(
        root=f"s3://{s3.bucket}/{prefix}",
        read=lambda name: s3.get(f"{prefix}/{name}"),
        names=lambda: sorted(key.removeprefix(f"{prefix}/") for key in s3.keys()),  # noqa: SIM118
        take_away=lambda: s3.fail("503", method="any"),
        bring_back=s3.calm,
    )


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Give each kind of output in turn."""
    if request.param == "folder":
        return _folder(tmp_path)
    return _bucket(request.getfixturevalue("s3"))


@dataclass
class Worker:
    """One process's delivery into a place."""

    place: Place
    journal: Journal
    faults: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self.delivery = Delivery(self.journal, output_for, threads=1, fault=self._fault)

    def _fault(self, point: str) -> None:
        self.faults(point)

    def claim(
        self, text: bytes, *, job_id: int = 1, epoch: int = 1, edition: int = 1, name: str = "a.md"
    ) -> Job:
        """Claim a job whose text is whole."""
        self.journal.texts[job_id, edition] = text
        checkpoint = Checkpoint(epoch=epoch, edition=edition, offsets={Kind.TEXT: len(text)})
        job = Job(
            id=job_id,
            batch_id=1,
            custom_id=str(job_id),
            endpoint=Endpoint(url="http://x/v1", model="m"),
            api="chat",
            body={},
            root=self.place.root,
            name=name,
            epoch=epoch,
            checkpoint=checkpoint,
            complete=True,
        )
        self.delivery.open(job)
        return job

    async def publish(self, job: Job) -> Published | None:
        """Publish it."""
        return await asyncio.wait_for(self.delivery.publish(job), 30)


@pytest.fixture
def workers(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Worker, Worker]]:
    """Give two workers of one journal, whose retries do not wait long."""
    monkeypatch.setattr(delivery_module, "RETRY_S", 0.01)
    monkeypatch.setattr(delivery_module, "RETRY_CAP_S", 0.05)
    journal = Journal()
    both = Worker(place, journal), Worker(place, journal)
    yield both
    for worker in both:
        assert worker.delivery.stop(10)


Workers = tuple[Worker, Worker]


@pytest.mark.parametrize("name", ["a.md", "deep/er/a.txt", ODD])
@pytest.mark.parametrize(
    "text", [b"", "ünïcode 😀\r\n\0 no newline".encode()], ids=["none", "some"]
)
async def test_a_text_is_there_whole_under_its_name(
    workers: Workers, place: Place, name: str, text: bytes
) -> None:
    """Byte for byte, also one of nothing, and beside it nothing else."""
    worker, _ = workers
    published = await worker.publish(worker.claim(text, name=name))

    assert published is not None
    assert (published.size, published.sha256) == (len(text), hashlib.sha256(text).digest())
    assert place.read(name) == text
    assert place.names() == [name]


async def test_a_long_text_is_there_whole(workers: Workers, place: Place) -> None:
    """It goes in pieces; there is no piece too many and none too few."""
    text = bytes(range(256)) * 256 * 161 + b"end"
    assert len(text) > ONE_PUT_BYTES
    worker, _ = workers

    published = await worker.publish(worker.claim(text))

    assert published is not None
    assert published.sha256 == hashlib.sha256(text).digest()
    assert place.read("a.md") == text
    assert place.names() == ["a.md"]


@pytest.mark.parametrize("text", [b"text", b"x" * (ONE_PUT_BYTES + 1)], ids=["short", "long"])
async def test_it_may_be_published_again_by_the_next_claim(
    workers: Workers, place: Place, text: bytes
) -> None:
    """The first died before it could say so."""
    first, second = workers
    await first.publish(first.claim(text))
    published = await second.publish(second.claim(text, epoch=2))

    assert published is not None
    assert published.size == len(text)
    assert place.read("a.md") == text
    assert place.names() == ["a.md"]


async def test_the_text_of_a_new_edition_takes_the_place_of_the_old(
    workers: Workers, place: Place
) -> None:
    """Somebody wanted the answer anew."""
    first, second = workers
    await first.publish(first.claim(b"old answer"))
    assert await second.publish(second.claim(b"new", epoch=3, edition=2))

    assert place.read("a.md") == b"new"


@pytest.mark.parametrize("size", [10, ONE_PUT_BYTES + 10], ids=["short", "long"])
async def test_a_lost_claim_publishes_nothing(workers: Workers, place: Place, size: int) -> None:
    """What it holds is nobody's answer any more."""
    worker, _ = workers
    job = worker.claim(b"x" * size)
    worker.journal.lost = {job.owner_key}

    assert await worker.publish(job) is None
    assert place.read("a.md") is None
    assert not [name for name in place.names() if not name.endswith(".part")]


async def test_two_claims_at_once_leave_one_whole_text(workers: Workers, place: Place) -> None:
    """Both stand in their own eyes; the newer one's text is what is there."""
    first, second = workers
    old = first.claim(b"the old answer, a longer one")

    def another(point: str) -> None:
        # The first has asked for its claim; before it acts the second does all its work.
        if point in {"before_put", "after_fsync"}:
            first.faults = lambda _: None
            other = second.claim(b"new answer", epoch=2, edition=2)
            assert asyncio.run(second.publish(other)) is not None

    first.faults = another
    assert await first.publish(old) is None

    assert place.read("a.md") == b"new answer"
    assert place.names() == ["a.md"]


async def test_many_are_published_at_once(workers: Workers, place: Place) -> None:
    """Each gets its own."""
    worker, _ = workers
    jobs = [worker.claim(b"%d" % n * n, job_id=n, name=f"{n}.md") for n in range(1, 41)]
    published = await asyncio.gather(*(worker.publish(job) for job in jobs))

    assert all(published)
    assert [place.read(f"{n}.md") for n in range(1, 41)] == [b"%d" % n * n for n in range(1, 41)]


async def test_a_place_that_is_away_is_waited_for(workers: Workers, place: Place) -> None:
    """By itself, and the reason is shown meanwhile, under the output's name."""
    worker, _ = workers
    place.take_away()
    publishing = asyncio.ensure_future(worker.publish(worker.claim(b"text")))
    await until(lambda: worker.delivery.trouble)

    assert worker.delivery.trouble[1].startswith(f"{place.root}: ")
    place.bring_back()

    assert await publishing
    assert place.read("a.md") == b"text"
    assert worker.delivery.trouble == {}


async def test_a_worker_without_the_others_disk_rebuilds_from_the_journal(
    workers: Workers, place: Place, tmp_path: Path
) -> None:
    """The first wrote half of it somewhere that the second never sees."""
    first, second = workers
    elsewhere = tmp_path / "another disk"
    first.place = Place(
        root=str(elsewhere),
        read=place.read,
        names=place.names,
        take_away=place.take_away,
        bring_back=place.bring_back,
    )
    first.claim(b"half a te")
    await until((elsewhere / "a.md.e1.part").exists)

    assert await second.publish(second.claim(b"half a text, and the rest", epoch=2))

    assert place.read("a.md") == b"half a text, and the rest"
    assert place.names() == ["a.md"]


async def test_a_store_that_hangs_stops_neither_other_outputs_nor_more_than_its_threads(
    s3: S3, tmp_path: Path
) -> None:
    """Its uploads wait, eight at once; folders are written and published as ever."""
    journal = Journal()
    worker = Worker(_bucket(s3), journal)
    s3.fail("hang")
    jobs = [worker.claim(b"far", job_id=n, name=f"{n}.md") for n in range(1, 31)]
    waiting = [asyncio.ensure_future(worker.publish(job)) for job in jobs]
    await until(lambda: len(s3.requests()) > AT_ONCE)
    worker.place = _folder(tmp_path)
    near = [worker.claim(b"near", job_id=n, name=f"{n}.md") for n in range(31, 61)]

    assert all(await asyncio.gather(*(worker.publish(job) for job in near)))

    assert not any(one.done() for one in waiting)
    assert len(s3.requests()) == AT_ONCE + 1  # and the one that made the bucket
    assert not worker.delivery.stop(0.1)
    s3.calm()
    await until(lambda: len(s3.keys()) == 30)
    assert all(await asyncio.gather(*waiting))
    assert worker.delivery.stop(30)


async def test_uploads_that_nobody_waits_for_are_not_begun(s3: S3) -> None:
    """Cancelled while the store hung: when it is back, they are passed over."""
    worker = Worker(_bucket(s3), Journal())
    s3.fail("hang", times=AT_ONCE)
    jobs = [worker.claim(b"far", job_id=n, name=f"{n}.md") for n in range(1, AT_ONCE + 5)]
    waiting = [asyncio.ensure_future(worker.delivery.publish(job)) for job in jobs]
    await until(lambda: len(s3.requests()) > AT_ONCE)
    for one in waiting[AT_ONCE:]:
        one.cancel()
    await asyncio.sleep(0)
    s3.calm()

    await asyncio.gather(*waiting[:AT_ONCE])
    assert worker.delivery.stop(30)

    assert len(s3.keys()) == AT_ONCE
