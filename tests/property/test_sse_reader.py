"""The event reader against the specification, read plainly."""

from __future__ import annotations

import itertools
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.sources.sse import SseReader

#: Lines that mean something to a reader, and some that nearly do.
LINES = [
    b"data: x", b"data:x", b"data:", b"data: ", b"data", b"data:  y", b"datax: z", b" data: w",
    b": c", b":", b"event: e", b"id: 1", b"retry: 5", b"data: a: b", b'{"e": 1}', b"data: \xff",
    b"data: \xe2\x80\xa8", b"data: \xc2\x85", b"data: \x0b\x0c", b"\xef\xbb\xbfdata: b",
]  # fmt: skip
ENDS = [b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b""]

streams = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"data: x\n\n", b"data: yy\n\n", b": c\n\n"])).map(b"".join),
    st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(ENDS)).map(b"".join)).map(b"".join),
)
cuts = st.lists(st.integers(0, 200))


def reference(data: bytes) -> list[bytes]:
    """Read a whole stream as the specification describes it, in one go and without care."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    lines = re.split(rb"\r\n|\n|\r", data)[:-1]
    found: list[bytes] = []
    payload: list[bytes] = []
    for line in lines:
        if not line:
            if joined := b"\n".join(payload):
                found.append(joined)
            payload = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            payload.append(value.removeprefix(b" "))
    return found


#: Time is not the promise here: the machine may be busy.
patient = settings(deadline=None)


@patient
@given(data=streams, cut_at=cuts)
@example(data=b"data: x\r\n\r\ndata: y\r\n\r\n", cut_at=[8, 9, 10])
@example(data=b"data: x\r\ndata: y\r\n\r\n", cut_at=[8])
@example(data=b"data: x\n\ndata: \n\n", cut_at=[])
@example(data=b"\xef\xbb\xbfdata: x\n\n", cut_at=[1, 2])
@example(data=b"data: x\n\n\n\ndata: \n\ndata: y\n\n", cut_at=[])
@example(data=b"data: x\n\nid: 1\n\n", cut_at=[])
def test_any_stream_cut_anywhere_reads_the_same(data: bytes, cut_at: list[int]) -> None:
    """Whatever the bytes and wherever the network cuts them, the events are the specified ones."""
    bounds = sorted({0, len(data), *(at for at in cut_at if at < len(data))})
    reader = SseReader()

    pieces = [data[a:b] for a, b in itertools.pairwise(bounds)]
    found = [payload for piece in pieces for payload in reader.feed(piece)]

    assert found == reference(data)
    assert reader.events == len(found)
    assert reader.bytes == len(data)


@patient
@given(data=streams, cut_at=cuts, limit=st.integers(1, 30))
def test_the_limit_is_the_same_wherever_it_is_cut(
    data: bytes, cut_at: list[int], limit: int
) -> None:
    """An event over the limit fails in any cutting or in none; those before it are given."""
    bounds = sorted({0, len(data), *(at for at in cut_at if at < len(data))})
    whole, pieces = SseReader(limit, limit), SseReader(limit, limit)

    at_once = whole.feed(data + b"\n\n")
    in_pieces = [p for a, b in itertools.pairwise(bounds) for p in pieces.feed(data[a:b])]
    in_pieces += pieces.feed(b"\n\n")

    assert in_pieces == at_once
    assert (pieces.failure is None) == (whole.failure is None)
