"""Which kind each part of a chunk is, and how calls of tools are put down."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from pipeline.ports import Delta
from pipeline.sources.failures import Site
from pipeline.sources.reply import Reply
from pipeline.sources.settings import SourceSettings
from tests.unit.sources.raw import chunk
from tokenspool.model import Kind


def _reply(**settings: Any) -> Reply:
    return Reply(SourceSettings(**settings), Site(host="host"))


def _take(reply: Reply, *chunks: object) -> list[Delta]:
    return reply.take([c if isinstance(c, bytes) else msgspec.json.encode(c) for c in chunks])


def _lines(deltas: list[Delta]) -> list[dict[str, Any]]:
    assert all(delta.kind is Kind.TOOL for delta in deltas)
    return [json.loads(line) for line in b"".join(d.data for d in deltas).splitlines()]


def _calls(*calls: dict[str, object]) -> dict[str, object]:
    return chunk(tool_calls=list(calls))


def test_deltas_of_one_kind_are_merged_and_counted() -> None:
    """What came in one read is one delta for each run of a kind; `chunks` counts the tokens."""
    deltas = _take(
        _reply(),
        chunk(role="assistant", content=""),
        chunk(reasoning_content="hm"),
        chunk(reasoning_content="m"),
        chunk("a"),
        chunk("b"),
        chunk("c"),
        chunk(refusal="no"),
    )

    assert deltas == [
        Delta(kind=Kind.REASONING, data=b"hmm", chunks=2),
        Delta(kind=Kind.TEXT, data=b"abc", chunks=3),
        Delta(kind=Kind.REFUSAL, data=b"no", chunks=1),
    ]


@pytest.mark.parametrize("names", [("reasoning",), ("reasoning_content", "reasoning")])
def test_a_thought_under_two_names_is_one_thought(names: tuple[str, ...]) -> None:
    """Row 35: servers that send both fields do not double the reasoning."""
    deltas = _take(_reply(), chunk(**dict.fromkeys(names, "hm")))

    assert deltas == [Delta(kind=Kind.REASONING, data=b"hm")]


def test_a_content_in_parts_is_read() -> None:
    """Some servers send a list of parts, with the thinking among them."""
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "a"},
    ]

    deltas = _take(_reply(), {"choices": [{"delta": {"content": parts}}]})

    assert {d.kind: d.data for d in deltas} == {Kind.TEXT: b"a", Kind.REASONING: b"hm"}


def test_each_piece_of_a_call_is_one_line() -> None:
    """A tool call is put down as it came, one JSON line for each piece."""
    deltas = _take(
        _reply(),
        _calls({"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}),
        _calls({"index": 0, "function": {"arguments": '{"ä'}}),
        _calls({"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}}),
    )

    assert len(deltas) == 1
    assert _lines(deltas) == [
        {"index": 0, "id": "c1", "name": "f", "arguments": ""},
        {"index": 0, "id": None, "name": None, "arguments": '{"ä'},
        {"index": 1, "id": "c2", "name": "g", "arguments": "{}"},
    ]


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}], ids=str)
def test_calls_without_a_true_index_are_told_apart(index: dict[str, object]) -> None:
    """Row 19: with no index, or 0 for all, a new id is a new call and its pieces follow it."""
    deltas = _take(
        _reply(),
        _calls({**index, "id": "c1", "function": {"name": "f", "arguments": ""}}),
        _calls({**index, "function": {"arguments": "1"}}),
        _calls({**index, "id": "c2", "function": {"name": "f", "arguments": ""}}),
        _calls({**index, "function": {"arguments": "2"}}),
        _calls({**index, "id": "c2", "function": {"arguments": "3"}}),
    )

    assert [(c["index"], c["arguments"]) for c in _lines(deltas)] == [
        (0, ""),
        (0, "1"),
        (1, ""),
        (1, "2"),
        (1, "3"),
    ]


def test_a_piece_without_an_index_belongs_to_the_last_call() -> None:
    """A server that leaves the index out in the middle means the call that it was at."""
    deltas = _take(
        _reply(),
        _calls({"index": 3, "id": "c1", "function": {"name": "f", "arguments": ""}}),
        _calls({"function": {"arguments": "1"}}),
    )

    assert [c["index"] for c in _lines(deltas)] == [3, 3]


def test_nameless_calls_are_told_apart_by_their_functions() -> None:
    """Without index and id, a function's name begins a new call; arguments may be an object."""
    call: dict[str, object] = {"function": {"name": "f", "arguments": {"x": 1}}}

    deltas = _take(_reply(), _calls(call), _calls(call))

    assert [(c["index"], c["arguments"]) for c in _lines(deltas)] == [
        (0, '{"x": 1}'),
        (1, '{"x": 1}'),
    ]


def test_the_older_function_call_is_a_tool() -> None:
    """`function_call` is put down like the only tool call."""
    deltas = _take(_reply(), chunk(function_call={"name": "f", "arguments": "{}"}))

    assert _lines(deltas) == [{"index": 0, "id": None, "name": "f", "arguments": "{}"}]


def test_half_a_pair_in_arguments_stays_an_escape() -> None:
    """A surrogate pair split over two pieces of arguments joins when the pieces are read."""
    half = b'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\\u%s"}}]}}]}'

    deltas = _take(_reply(), half % b"d83d", half % b"de00")

    assert [line["arguments"] for line in _lines(deltas)] == ["\ud83d", "\ude00"]


def _half(code: bytes) -> bytes:
    return b'{"choices":[{"delta":{"content":"\\u%s"}}]}' % code


def test_a_pair_split_over_chunks_joins() -> None:
    """A character whose two halves come in two chunks is that character, also over two reads."""
    reply = _reply()

    together = _take(reply, chunk("a"), _half(b"d83d"), _half(b"de00"))
    first = _take(reply, chunk("b"), _half(b"d83d"))
    second = _take(reply, _half(b"de00"), chunk("c"))

    assert [d.data.decode() for d in together + first + second] == ["a😀", "b", "😀c"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([_half(b"de00"), chunk("a")], "\ufffda"),
        ([_half(b"d83d"), chunk("a")], "\ufffda"),
        ([_half(b"d83d"), _half(b"d83d"), _half(b"de00")], "\ufffd😀"),
        ([chunk("\ufeffa"), _half(b"d83d")], "\ufeffa\ufffd"),
    ],
    ids=["low", "high", "high-pair", "last"],
)
def test_half_a_pair_alone_is_replaced(parts: list[object], said: str) -> None:
    """A lone surrogate is no character: it becomes U+FFFD, and nothing else changes."""
    reply = _reply()

    deltas = [delta for part in parts for delta in _take(reply, part)]
    _take(reply, chunk(finish="stop"))
    deltas += reply.rest()

    assert b"".join(d.data for d in deltas).decode() == said


def test_halves_of_two_kinds_are_not_one_character() -> None:
    """Half a pair of the text and half a pair of a thought have nothing to do with each other."""
    reply = _reply()

    deltas = _take(reply, _half(b"d83d"))
    deltas += _take(reply, b'{"choices":[{"delta":{"reasoning":"\\ude00"}}]}')

    assert deltas == [
        Delta(kind=Kind.TEXT, data="\ufffd".encode(), chunks=0),
        Delta(kind=Kind.REASONING, data="\ufffd".encode()),
    ]


def test_half_a_pair_of_a_cut_answer_is_dropped() -> None:
    """What a cut leaves of a character is not committed: the resumed answer brings it whole."""
    reply = _reply()

    _take(reply, _half(b"d83d"))

    assert reply.rest() == []


def test_replaced_bytes_are_counted() -> None:
    """Row 11: bytes that are no UTF-8 do not lose the event, and are known of."""
    reply = _reply()

    _take(reply, b'{"choices":[{"delta":{"content":"\xff\xfe"}}]}', chunk("\ufffd"))

    assert reply.repaired == 1


def test_bad_events_between_good_ones_have_a_limit_too() -> None:
    """A stream of which a quarter is broken ends, though no twenty come in a row."""
    reply = _reply(max_malformed=5)

    for _ in range(40):
        _take(reply, chunk("a"), b"{", b"[")

    assert reply.failure is not None
    assert reply.failure.kind.value == "malformed"
