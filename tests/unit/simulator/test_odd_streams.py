"""Streams that are whole, and odd to read."""

from __future__ import annotations

import json
import re

import pytest

from tests.unit.simulator.client import is_done, plain_bytes
from tests.unit.simulator.conftest import Start

TOKENS = 30
QUESTION = "Tell me of the harbour."


@pytest.mark.parametrize(
    ("fault", "bytes_of_it"),
    [
        ("garbage_at=3", b'data: {"id":"chatcmpl-\n\n'),
        ("garbage_at=3,garbage_events=3", b"data: <html>502 Bad Gateway</html>\n\n"),
        ("null_choices_at=3", b'"choices":null'),
        ("null_choices_at=3", b"data: null\n\ndata: []\n\n"),
        ("no_delta_at=3", b'"choices":[{"index":0,"content_filter_offsets"'),
        ("nan_at=3", b":NaN"),
        ("invalid_utf8_at=3", b'"content":"\xff\xfe"'),
        ("nul_at=3", rb'"content":"\u0000"'),
    ],
)
async def test_an_odd_event_stands_where_it_should(
    sim: Start, fault: str, bytes_of_it: bytes
) -> None:
    """Behind the third token; all tokens are there, and the end."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault=fault)

    before, after = got.body.split(bytes_of_it)
    assert before.count(b'"delta":{"content":') >= 3
    assert after.count(b'"delta":{"content":') >= TOKENS - 3
    assert is_done(got)


async def test_garbage_can_go_on_and_on(sim: Start) -> None:
    """As many events as are asked for, none of them JSON."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault="garbage_at=3,garbage_events=50")

    bad = 0
    for line in got.body.split(b"\n\n")[:-2]:
        try:
            json.loads(line.removeprefix(b"data: "))
        except ValueError:
            bad += 1
    assert bad == 50


async def test_an_event_can_be_huge(sim: Start) -> None:
    """By padding, so that the text stays the same."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault="huge_event=3000000")

    assert max(map(len, got.pieces)) > 3_000_000
    assert got.text == (await client.chat()).text


async def test_usage_can_be_said_again_and_again(sim: Start) -> None:
    """Growing, or zero until the end."""
    client = await sim(tokens=TOKENS)

    growing = await client.chat(fault="usage_each")
    zeros = await client.chat(fault="usage_zeros", stream_options={"include_usage": True})

    said = [event["usage"]["completion_tokens"] for event in growing.events if "usage" in event]
    assert said == [*range(TOKENS), TOKENS]
    told = [event["usage"] for event in zeros.events if event["usage"]]
    assert [usage["completion_tokens"] for usage in told] == TOKENS * [0] + [TOKENS]


async def test_deltas_can_be_full_of_nothing(sim: Start) -> None:
    """Azure's first chunk without choices, empty tool calls, null content."""
    client = await sim(tokens=TOKENS)

    azure = await client.chat(fault="empty_choices")
    nulls = await client.chat(fault="null_content,reasoning=1")

    assert azure.events[0]["choices"] == []
    assert "prompt_filter_results" in azure.events[0]
    assert nulls.events[1]["choices"][0]["delta"]["content"] is None
    assert nulls.events[2]["choices"][0]["delta"]["tool_calls"] == []
    assert azure.text == nulls.text == (await client.chat()).text


async def test_text_can_be_escaped(sim: Start) -> None:
    """Nothing but ASCII on the wire; or a surrogate pair in two events."""
    client = await sim(tokens=2000)
    text = (await client.chat()).text

    escaped = await client.chat(fault="ascii")
    split = await client.chat(fault="split_surrogates")

    assert escaped.body.isascii()
    assert escaped.text == text
    assert len(split.events) > len(escaped.events)
    halves = split.text
    assert halves != text
    assert halves.encode("utf-16", "surrogatepass").decode("utf-16") == text


@pytest.mark.parametrize(("fault", "end"), [("crlf", b"\r\n"), ("cr", b"\r")])
async def test_lines_can_end_otherwise(sim: Start, fault: str, end: bytes) -> None:
    """All of them."""
    client = await sim(tokens=TOKENS)
    plain = await client.chat()

    got = await client.chat(fault=fault)

    assert plain_bytes(got.body.replace(end, b"\n")) == plain_bytes(plain.body)
    assert got.body.count(end) == plain.body.count(b"\n")


async def test_a_stream_can_be_dressed_oddly(sim: Start) -> None:
    """Byte order mark, ids, comments, pings, lines split in two: under it the same stream."""
    client = await sim(tokens=TOKENS)
    plain = await client.chat()

    got = await client.chat(fault="bom,event_ids,comments=2,pings=3,multiline,no_space")

    assert got.body.startswith(b"\xef\xbb\xbfid: 1\ndata:{")
    assert got.body.count(b": still here\n\n") == (TOKENS + 3) // 2
    assert got.body.count(b"event: ping\ndata:\n\n") == (TOKENS + 3) // 3
    undressed = re.sub(
        rb"^id: \d+\n|: still here\n\n|event: ping\ndata:\n\n",
        b"",
        got.body[3:],
        flags=re.MULTILINE,
    )
    undressed = undressed.replace(b"\ndata: ,", b",").replace(b"data:", b"data: ")
    assert plain_bytes(undressed) == plain_bytes(plain.body)


async def test_done_can_have_two_spaces_before_it(sim: Start) -> None:
    """One is part of the form, the other of the data."""
    client = await sim(tokens=TOKENS)

    assert (await client.chat(fault="done_spaces")).body.endswith(b"\n\ndata:  [DONE]\n\n")


async def test_a_stream_can_be_written_byte_by_byte(sim: Start) -> None:
    """Each byte in a chunk of its own."""
    client = await sim(tokens=3)
    plain = await client.chat()

    got = await client.chat(fault="bytes_per_write=1")

    assert {len(piece) for piece in got.pieces} == {1}
    assert plain_bytes(got.body) == plain_bytes(plain.body)


async def test_characters_can_be_split_over_writes(sim: Start) -> None:
    """Every character of several bytes is cut behind its first."""
    client = await sim(tokens=300)
    plain = await client.chat()

    got = await client.chat(fault="split_utf8")

    assert plain_bytes(got.body) == plain_bytes(plain.body)
    assert sum(piece[-1] >= 0xC2 for piece in got.pieces) > 20
    assert not any(byte >= 0xC2 for piece in got.pieces for byte in piece[:-1])
