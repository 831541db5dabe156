"""Objects: never half, never over what is not ours, whatever the server does."""

from __future__ import annotations

import builtins
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from pipeline.outputs import bucket as bucket_module
from pipeline.outputs.bucket import Bucket, Conflict, Found, Unconditional
from pipeline.outputs.objects import ONE_PUT_BYTES, ObjectOutput
from pipeline.ports import FinishedText, PartVanishedError, no_fault
from tests.s3 import S3
from tokenspool.errors import StreamError
from tokenspool.model import Checkpoint, Endpoint, Job

MIB = 1024 * 1024
PIECE = 256 * 1024


def finished(
    data: bytes,
    *,
    epoch: int = 1,
    job_id: int = 1,
    born: str = "1.5",
    stands: Callable[[], bool] = lambda: True,
    read: Callable[[], Iterator[bytes]] | None = None,
) -> FinishedText:
    """Make a finished text."""
    job = Job(
        id=job_id,
        batch_id=1,
        custom_id="a",
        endpoint=Endpoint(url="http://x/v1", model="m"),
        api="chat",
        body={},
        root="s3://unused",
        name="a.md",
        epoch=epoch,
        checkpoint=Checkpoint(epoch=epoch),
    )

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(data), PIECE):
            yield data[at : at + PIECE]

    return FinishedText(
        job=job,
        born=born,
        size=len(data),
        sha256=hashlib.sha256(data).digest(),
        read=read or pieces,
        stands=stands,
    )


@pytest.fixture
def output(s3: S3) -> ObjectOutput:
    """Give an output in a bucket of its own."""
    return ObjectOutput(f"s3://{s3.bucket}/out")


LONG = b"0123456789abcdef" * (ONE_PUT_BYTES // 16) + b"end"


# --- a server in trouble ----------------------------------------------------------------------
@pytest.mark.parametrize("data", [b"text", LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("500", "the server answers 500 (InternalError)"),
        ("503", "the server answers 503 (SlowDown)"),
        ("403", "the server refuses the credentials (InvalidAccessKeyId): check AWS_ACCESS_KEY_ID"),
        ("hang", "the server cannot be reached, or does not answer"),
    ],
)
def test_trouble_is_an_error_to_be_tried_again_that_shows_no_secret(
    s3: S3, monkeypatch: pytest.MonkeyPatch, data: bytes, kind: str, says: str
) -> None:
    """Nothing half stays behind, and the next try succeeds."""
    with monkeypatch.context() as impatient:
        impatient.setattr(bucket_module, "_TRIES", 1)
        if kind == "hang":
            impatient.setattr(bucket_module, "WRITE_S", 1.0)
        output = ObjectOutput(f"s3://{s3.bucket}/out")
        output._opened()
    s3.fail(kind, method="PUT")

    with pytest.raises(OSError, match=re.escape(says)) as refused:
        output.publish(finished(data), no_fault)

    for secret in s3.environment.values():
        assert secret not in str(refused.value)
    s3.calm()
    assert (s3.keys(), s3.unfinished()) == ([], 0)
    ObjectOutput(f"s3://{s3.bucket}/out").publish(finished(data), no_fault)
    assert s3.get("out/a.md") == data


def test_a_passing_error_is_not_even_seen(s3: S3, output: ObjectOutput) -> None:
    """The library asks once more by itself."""
    s3.fail("500", times=1)

    output.publish(finished(b"text"), no_fault)

    assert s3.get("out/a.md") == b"text"


@pytest.mark.parametrize("data", [b"text", LONG], ids=["short", "long"])
def test_an_answer_that_was_lost_is_found_out(s3: S3, output: ObjectOutput, data: bytes) -> None:
    """The object is there, though the server said that it is not: the next try sees it."""
    method = "PUT" if data == b"text" else "POST"
    query = "" if data == b"text" else "uploadId"
    s3.fail("lost", times=1, method=method, query=query)

    try:
        output.publish(finished(data), no_fault)
    except OSError:
        output.publish(finished(data), no_fault)

    assert s3.get("out/a.md") == data
    assert s3.unfinished() == 0


@pytest.mark.parametrize("data", [b"text", LONG], ids=["short", "long"])
def test_a_bucket_that_is_missing_is_named(s3: S3, data: bytes) -> None:
    """And once somebody has made it, all is well."""
    other = S3(s3.url, f"{s3.bucket}-later")
    output = ObjectOutput(f"s3://{other.bucket}")
    with pytest.raises(OSError, match=f"there is no bucket {other.bucket}"):
        output.publish(finished(data), no_fault)

    other.make()
    output.publish(finished(data), no_fault)

    assert other.get("a.md") == data


def test_missing_credentials_are_asked_for(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names of their variables."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    output = ObjectOutput(f"s3://{s3.bucket}")

    with pytest.raises(OSError, match="set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        output.publish(finished(b"text"), no_fault)


def test_without_the_library_one_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An extra that nobody needs who writes into folders."""
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith(("obstore", "pipeline.outputs.bucket")):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    output = ObjectOutput("s3://bucket/x")

    with pytest.raises(OSError, match=r"need an extra: pip install 'tokenspool\[s3\]'"):
        output.publish(finished(b"text"), no_fault)


# --- what is there already ----------------------------------------------------------------------
@pytest.mark.parametrize("data", [b"text", LONG], ids=["short", "long"])
@pytest.mark.parametrize("whose", ["nobody", "another job", "another database"])
def test_what_this_job_did_not_write_is_not_replaced(
    s3: S3, output: ObjectOutput, data: bytes, whose: str
) -> None:
    """It is no use to try again, and the sentence says what is."""
    match whose:
        case "nobody":
            s3.put("out/a.md", b"mine")
        case "another job":
            output.publish(finished(b"mine", job_id=2), no_fault)
        case _:
            output.publish(finished(b"mine", born="1.6"), no_fault)

    with pytest.raises(StreamError, match="move that object away, then: tokenspool resume --job 1"):
        output.publish(finished(data), no_fault)

    assert s3.get("out/a.md") == b"mine"
    assert s3.unfinished() == 0


@pytest.mark.parametrize("data", [b"old", LONG], ids=["short", "long"])
def test_a_late_claim_leaves_the_newer_ones_text(s3: S3, output: ObjectOutput, data: bytes) -> None:
    """Though nobody told it that it is late."""
    output.publish(finished(b"newer", epoch=2), no_fault)

    with pytest.raises(PartVanishedError):
        output.publish(finished(data), no_fault)

    assert s3.get("out/a.md") == b"newer"


@pytest.mark.parametrize("newer", [b"newer", LONG[::-1]], ids=["short", "long"])
def test_a_claim_lost_while_the_parts_are_sent_publishes_nothing(
    s3: S3, output: ObjectOutput, newer: bytes
) -> None:
    """It asks once more when the last piece is read: here another claim has just published."""
    text = finished(LONG)

    def slow() -> Iterator[bytes]:
        yield from text.read()
        other = threading.Thread(target=output.publish, args=(finished(newer, epoch=2), no_fault))
        other.start()
        other.join()

    with pytest.raises(PartVanishedError):
        output.publish(finished(LONG, read=slow), no_fault)

    assert s3.get("out/a.md") == newer
    assert s3.unfinished() == 0


def test_the_same_text_that_a_newer_claim_put_there_meanwhile_is_left(
    s3: S3, output: ObjectOutput
) -> None:
    """Nothing is put in its place, and the parts are removed."""

    def slow() -> Iterator[bytes]:
        yield LONG
        other = threading.Thread(target=output.publish, args=(finished(LONG, epoch=2), no_fault))
        other.start()
        other.join()

    output.publish(finished(LONG, read=slow), no_fault)

    assert s3.get("out/a.md") == LONG
    there = Bucket("s3", s3.bucket).look("out/a.md")
    assert there is not None
    assert there.about["tokenspoolepoch"] == "2"
    assert s3.unfinished() == 0


def test_a_lost_claim_ends_before_the_last_part(s3: S3, output: ObjectOutput) -> None:
    """Nobody else has published yet, and nobody may ever."""
    points: list[str] = []

    with pytest.raises(PartVanishedError):
        output.publish(finished(LONG, stands=lambda: False), points.append)

    assert points == ["before_upload"]
    assert (s3.keys(), s3.unfinished()) == ([], 0)


def test_a_journal_that_reads_differently_is_not_published(s3: S3, output: ObjectOutput) -> None:
    """What was sent is compared with what was counted before."""
    for data, other in ((b"text", b"tex!"), (LONG, LONG[:-1] + b"!")):
        pieces = [other]
        with pytest.raises(OSError, match="read differently"):
            output.publish(finished(data, read=lambda pieces=pieces: iter(pieces)), no_fault)  # type: ignore[misc]

    assert (s3.keys(), s3.unfinished()) == ([], 0)


def test_an_error_of_the_journal_passes_as_it_is(s3: S3, output: ObjectOutput) -> None:
    """Whoever retries must know which."""

    class JournalError(Exception):
        pass

    def broken() -> Iterator[bytes]:
        yield LONG[: 6 * MIB]
        raise JournalError

    with pytest.raises(JournalError):
        output.publish(finished(LONG, read=broken), no_fault)

    assert (s3.keys(), s3.unfinished()) == ([], 0)


@dataclass
class Simple:
    """A bucket of a server that knows no conditions."""

    there: Found | None = None
    data: bytes | None = None

    def look(self, _key: str) -> Found | None:
        """See `Bucket`."""
        return self.there

    def put(self, _key: str, data: bytes, about: Mapping[str, str], *, over: object) -> None:
        """See `Bucket`."""
        if over != "any":
            raise Unconditional
        self.data, self.there = data, Found(e_tag=None, size=len(data), about=about)


def test_a_server_without_conditions_is_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next best thing."""
    output, server = ObjectOutput("s3://bucket"), Simple()
    monkeypatch.setattr(output, "_bucket", server)
    output.publish(finished(b"text"), no_fault)
    output.publish(finished(b"newer", epoch=2), no_fault)
    assert server.data == b"newer"
    server.there = Found(e_tag=None, size=1, about={})

    with pytest.raises(StreamError, match="did not write it"):
        output.publish(finished(b"newest", epoch=3), no_fault)

    assert server.data == b"newer"


def test_conditions_can_be_switched_off(
    s3: S3, output: ObjectOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a server that would ignore them: what is there is looked at instead."""
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    output.publish(finished(b"text"), no_fault)
    output.publish(finished(b"newer", epoch=2), no_fault)
    assert s3.get("out/a.md") == b"newer"
    s3.put("out/a.md", b"mine")

    with pytest.raises(StreamError, match="did not write it"):
        output.publish(finished(b"newest", epoch=3), no_fault)

    assert [one[0] for one in s3.requests()].count("HEAD") == 3


def test_a_put_over_what_is_no_longer_there_is_a_conflict(s3: S3) -> None:
    """Changed or deleted since it was looked at: look again."""
    bucket = Bucket("s3", s3.bucket)
    bucket.put("k", b"one", {}, over="new")
    found = bucket.look("k")
    assert found is not None
    with pytest.raises(Conflict):
        bucket.put("k", b"two", {}, over="new")
    s3.put("k", b"somebody else's")
    with pytest.raises(Conflict):
        bucket.put("k", b"two", {}, over=found)

    assert s3.get("k") == b"somebody else's"
    s3.delete("k")
    with pytest.raises(Conflict):
        bucket.put("k", b"two", {}, over=found)
    assert s3.get("k") is None


# --- memory -------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_text_of_any_length_is_sent_and_read_in_bounded_memory(
    s3: S3, output: ObjectOutput
) -> None:
    """40 MiB go through a few parts' worth of memory, both ways."""
    piece = bytes(range(256)) * 4 * 256
    digest, size = hashlib.sha256(), 40 * MIB
    for _ in range(size // len(piece)):
        digest.update(piece)
    # Made anew each time: one that is shared would weigh nothing.
    text = finished(b"", read=lambda: (bytes(bytearray(piece)) for _ in range(size // len(piece))))
    text = FinishedText(
        job=text.job,
        born=text.born,
        size=size,
        sha256=digest.digest(),
        read=text.read,
        stands=text.stands,
    )
    output.publish(finished(b"warm", job_id=3, born="w"), no_fault)
    s3.delete("out/a.md")
    process, peak, stop = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, process.memory_info().rss - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        output.publish(text, no_fault)
        back = hashlib.sha256()
        for data in output.read("a.md"):
            back.update(data)
    finally:
        stop.set()
        watching.join()

    assert back.digest() == digest.digest()
    assert peak < 32 * MIB, f"{peak / MIB:.1f} MiB"
