"""The bounds and the corners of the event reader; its rule is in the property tests."""

from __future__ import annotations

import pytest

from pipeline.sources.sse import SseReader, is_foreign
from tokenspool.errors import ErrorKind


def _feed(reader: SseReader, *pieces: bytes) -> list[bytes]:
    return [payload for piece in pieces for payload in reader.feed(piece)]


def test_events_comments_and_bytes_are_counted() -> None:
    """The counters tell what a stream was made of."""
    reader = SseReader()

    _feed(reader, b": a\n\ndata: 1\n\n", b": b\n: c\n\ndata: 2\n: d\n\n", b"data: 3")

    assert (reader.events, reader.comments, reader.bytes) == (2, 4, 43)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_over_the_bytes_ends_the_reading(size: int) -> None:
    """However it is cut, a too large event fails and what was complete before it is given."""
    data = b"data: 1\n\n" + b"data: " + b"x" * 95 + b"\n\ndata: 2\n\n"
    reader = SseReader(max_event_bytes=100)

    found = _feed(reader, *[data[i : i + size] for i in range(0, len(data), size)])

    assert found == [b"1"]
    assert reader.failure is not None
    assert reader.failure.kind is ErrorKind.TOO_LARGE


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_at_the_bytes_is_read(size: int) -> None:
    """The limit itself is allowed, line end included."""
    data = b"data: " + b"x" * 93 + b"\n\n"
    reader = SseReader(max_event_bytes=100)

    found = _feed(reader, *[data[i : i + size] for i in range(0, len(data), size)])

    assert (found, reader.failure) == ([b"x" * 93], None)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_an_event_over_the_lines_ends_the_reading(size: int) -> None:
    """Ten thousand tiny lines are as bad as one huge one."""
    data = b"data: 1\n\n" + b"data:\n" * 11 + b"\n"
    reader = SseReader(max_event_lines=10)

    found = _feed(reader, *[data[i : i + size] for i in range(0, len(data), size)])

    assert found == [b"1"]
    assert reader.failure is not None


@pytest.mark.parametrize("comment", [b": keep-alive\n", b"\n", b":\r\n"])
@pytest.mark.parametrize("size", [1, 3, 4096])
def test_keepalives_never_pile_up(comment: bytes, size: int) -> None:
    """Comments without a blank line behind them, for hours, cost no memory and are no event."""
    reader = SseReader(max_event_bytes=100, max_event_lines=10)
    data = comment * 500

    found = _feed(reader, *[data[i : i + size] for i in range(0, len(data), size)], b"data: 1\n\n")

    assert (found, reader.failure, reader._size) == ([b"1"], None, 0)


def test_what_follows_a_failure_is_not_read() -> None:
    """After an event over the limits nothing is given any more."""
    reader = SseReader(max_event_bytes=10)
    _feed(reader, b"data: " + b"x" * 20)

    assert _feed(reader, b"\n\ndata: 1\n\n") == []
    assert reader.rest() is None


@pytest.mark.parametrize(
    ("end", "rest"),
    [
        (b"data: {}", b"{}"),
        (b"data: {}\n", b"{}"),
        (b"data: {}\r", b"{}"),
        (b"data: [DONE]", b"[DONE]"),
        (b'data: {"a":', None),
        (b"data: 12", None),
        (b"dat", None),
        (b": {}", None),
        (b"", None),
    ],
)
def test_the_rest_is_given_only_when_whole(end: bytes, rest: bytes | None) -> None:
    """Row 4: a last event without its blank line counts if it is a whole object, or the end."""
    reader = SseReader()

    reader.feed(b"data: 1\n\n" + end)

    assert reader.rest() == rest
    assert reader.events == (1 if rest is None else 2)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_stray_object_is_kept(size: int) -> None:
    """An error that a server writes between the events, or at the end, can be looked at."""
    data = b'data: 1\n\n{"error": "x"}\n'
    reader = SseReader()

    _feed(reader, *[data[i : i + size] for i in range(0, len(data), size)])
    reader.rest()

    assert reader.stray == b'{"error": "x"}'


def test_a_large_event_in_small_pieces_takes_linear_time() -> None:
    """Eight MiB in pieces of 1 KiB are searched once, not once for each piece."""
    reader = SseReader()
    piece = b"x" * 1024

    _feed(reader, b"data: ", *[piece] * 8000)

    # Kept as they came: nothing was joined, so nothing was copied or searched twice.
    assert len(reader._pieces) == 8001


@pytest.mark.parametrize(
    ("body", "foreign"),
    [
        (b"data: 1", False),
        (b"\n\n: x", False),
        (b"event: ping", False),
        (b'{"error"', True),
        (b" \n<html>", True),
        (b"[{", True),
        (b'\xef\xbb\xbf{"a', True),
    ],
)
def test_documents_are_told_from_streams(body: bytes, foreign: bool) -> None:
    """An event stream never begins like a document."""
    assert is_foreign(body) is foreign
