"""What servers really send: each deviation from the wire's description, over a real socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from pipeline.ports import Usage
from tests.unit.sources.asking import get_from
from tests.unit.sources.raw import (
    CLOSE,
    DONE,
    HANG,
    RESET,
    STOP,
    Step,
    answer,
    chunk,
    chunked,
    event,
    head,
    raw_server,
    refusal,
    text,
)

OK = text("Hel") + text("lo")
JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One deviation: what is sent, and what must come of it."""

    id: str
    sends: Sequence[Step]
    said: str = "Hello"
    outcome: str = "stop"
    usage: Usage | None = None
    skipped: int = 0
    #: What the error's message holds.
    says: str = ""
    settings: dict[str, object] = field(default_factory=dict)


def _usage(completion: int, prompt: int = 3) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 9}


def _counted(data: dict[str, object], completion: int, prompt: int = 3) -> bytes:
    return event({**data, "usage": _usage(completion, prompt)})


def _whole(content: str | None, finish: str | None = "stop") -> dict[str, object]:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"object": "chat.completion", "choices": [choice], "usage": _usage(2)}


CRLF = (OK + STOP + DONE).replace(b"\n", b"\r\n")
SMILE = text("a😀b").split("😀".encode()[:2])
ALONE = {"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": None}]}
#: More of the answer comes behind a finish reason: it proved nothing.
EACH = (event(chunk("Hel", "stop")), event(chunk("lo", "stop")))

ROWS = [
    Row(id="0-ordinary", sends=answer(OK, STOP, DONE)),
    Row(id="0-chunked", sends=chunked(text("Hel"), text("lo"), STOP, DONE)),
    Row(id="1-clean-end", sends=answer(OK), outcome="! incomplete", says="finish reason"),
    Row(id="1-clean-end-of-chunks", sends=chunked(OK), outcome="! incomplete"),
    Row(id="1-nothing", sends=answer(), said="", outcome="! incomplete", says="without an answer"),
    Row(id="2-open-after-finish", sends=[*chunked(OK, STOP, end=False), HANG]),
    Row(
        id="2-comments-after-finish",
        sends=[*chunked(OK, STOP, *[b": still here\n\n"] * 40, end=False), HANG],
        settings={"drain_s": 0.1},
    ),
    Row(id="2-cut-after-finish", sends=[*chunked(OK, STOP, end=False), RESET]),
    Row(id="3-done-alone", sends=answer(OK, DONE), outcome="! incomplete", says="done_is_finish"),
    Row(
        id="3-done-alone-declared",
        sends=answer(OK, DONE),
        outcome="unconfirmed",
        settings={"done_is_finish": True},
    ),
    Row(
        id="3-declared-but-empty",
        sends=answer(DONE),
        said="",
        outcome="! incomplete",
        settings={"done_is_finish": True},
    ),
    Row(
        id="3-declared-but-cut",
        sends=answer(OK),
        outcome="! incomplete",
        settings={"done_is_finish": True},
    ),
    Row(id="4-no-blank-line", sends=answer(OK, STOP[:-1])),
    Row(id="4-no-line-end", sends=answer(OK, STOP[:-2])),
    Row(id="4-done-no-line-end", sends=answer(OK, STOP, DONE[:-2])),
    Row(id="4-cut-event", sends=answer(OK, text("!!")[:-6]), outcome="! incomplete"),
    Row(id="5-crlf", sends=answer(CRLF)),
    Row(id="5-crlf-split", sends=answer(*[CRLF[i : i + 1] for i in range(len(CRLF))])),
    Row(id="5-cr", sends=answer((OK + STOP + DONE).replace(b"\n", b"\r"))),
    Row(id="6-bom", sends=answer(b"\xef\xbb\xbf" + OK, STOP, DONE)),
    Row(id="6-bom-split", sends=answer(b"\xef", b"\xbb", b"\xbf" + OK, STOP, DONE)),
    Row(id="7-no-space", sends=answer((OK + STOP + DONE).replace(b"data: ", b"data:"))),
    Row(id="8-blanks-around-done", sends=answer(OK, STOP, b"data:  [DONE]  \n\n")),
    Row(
        id="8-blanks-around-done-alone",
        sends=answer(OK, b"data:   [DONE]\n\n", text("no")),
        outcome="unconfirmed",
        settings={"done_is_finish": True},
    ),
    Row(id="9-many-lines", sends=answer(OK.replace(b',"choices"', b',\ndata: "choices"'), STOP)),
    Row(
        id="10-split-utf8", sends=answer(SMILE[0], "😀".encode()[:2] + SMILE[1], STOP), said="a😀b"
    ),
    Row(id="11-no-utf8", sends=answer(OK.replace(b"Hel", b"H\xffl"), STOP), said="H�llo"),
    Row(
        id="12-line-separators",
        sends=answer(text("a\u2028b\u0085c\u2029\x7f"), STOP),
        said="a\u2028b\u0085c\u2029\x7f",
    ),
    Row(id="13-comments", sends=answer(b": a\n\n", OK, b": b\n\n: c\n\n", STOP, DONE)),
    Row(id="14-ping", sends=answer(b"event: ping\n\n", OK, b"data:\n\nid: 3\n\ndata: \n\n", STOP)),
    Row(
        id="14-ping-with-data", sends=answer(*[event({"type": "ping"})] * 60, OK, STOP), skipped=60
    ),
    Row(
        id="15-no-choices",
        sends=answer(event({"choices": [], "prompt_filter_results": [{}]}), OK, STOP),
        skipped=1,
    ),
    Row(
        id="16-no-delta",
        sends=answer(OK, event({"choices": [{"finish_reason": None, "index": 0}]}), STOP),
    ),
    Row(
        id="17-nulls",
        sends=answer(event({"choices": None}), OK, event(None), event([]), STOP),
        skipped=3,
    ),
    Row(
        id="18-empty-fields",
        sends=answer(event(chunk("Hello", tool_calls=[], refusal=None, function_call=None)), STOP),
    ),
    Row(id="18-null-content", sends=answer(event(chunk(role="assistant", content=None)), OK, STOP)),
    Row(
        id="20-index-is-token-number",
        sends=answer(text("Hel"), event({"choices": [{**ALONE["choices"][0], "index": 7}]}), STOP),
    ),
    Row(
        id="21-cumulative-usage",
        sends=answer(_counted(chunk("Hel"), 1), _counted(chunk("lo", "stop"), 2), DONE),
        usage=Usage(prompt=3, completion=2),
    ),
    Row(
        id="22-zeros",
        sends=answer(
            _counted(chunk("Hel"), 1),
            _counted(chunk("lo"), 0, 0),
            _counted(chunk(finish="stop"), 2),
            _counted({}, 0, 0),
        ),
        usage=Usage(prompt=3, completion=2),
    ),
    Row(id="23-finish-twice", sends=answer(OK, STOP, event(chunk(finish="length")), DONE)),
    Row(
        id="24-usage-without-choices",
        sends=answer(OK, STOP, event({"usage": _usage(2)}), DONE),
        usage=Usage(prompt=3, completion=2),
    ),
    Row(
        id="25-error-as-object",
        sends=answer(OK, event({"error": {"message": "slow down", "code": 429}}), DONE),
        outcome="! rate_limited",
        says="slow down",
    ),
    Row(
        id="25-error-with-type",
        sends=answer(OK, event({"error": {"message": "x", "type": "server_error"}})),
        outcome="! server",
    ),
    Row(
        id="25-error-too-long",
        sends=answer(event({"error": {"message": "x", "code": "context_length_exceeded"}})),
        said="",
        outcome="! request",
    ),
    Row(
        id="25-error-old-vllm",
        sends=answer(OK, event({"object": "error", "message": "x", "code": 400}), DONE),
        outcome="! request",
    ),
    Row(
        id="25-error-beside-choices",
        sends=answer(OK, event({**chunk("", "error"), "error": {"code": 502, "message": "up"}})),
        outcome="! overloaded",
    ),
    Row(
        id="25-error-after-finish",
        sends=answer(OK, STOP, event({"error": {"message": "late"}}), event({"usage": _usage(2)})),
        usage=Usage(prompt=3, completion=2),
    ),
    Row(
        id="26-error-as-text",
        sends=answer(OK, event({"error": "engine overloaded"})),
        outcome="! overloaded",
        says="engine overloaded",
    ),
    Row(
        id="26-error-in-a-list",
        sends=answer(b'[{"error": {"code": 503, "message": "x"}}]', kind=JSON),
        said="",
        outcome="! overloaded",
    ),
    Row(
        id="27-detail",
        sends=answer(b'{"detail":"rate limit reached"}', kind=JSON),
        said="",
        outcome="! rate_limited",
    ),
    Row(
        id="27-detail-as-event",
        sends=answer(OK, event({"detail": "gone"})),
        outcome="! server",
        says="gone",
    ),
    Row(
        id="27-bare-line",
        sends=answer(b'{"error":{"message":"no","code":503}}\n'),
        said="",
        outcome="! overloaded",
    ),
    Row(
        id="27-bare-line-later",
        sends=answer(OK, b'{"error":{"message":"no","code":503}}\n'),
        outcome="! overloaded",
    ),
    Row(
        id="27-page",
        sends=answer(b"<html><title>x</title><body>Sign <b>in</b></body>", kind="text/html"),
        said="",
        outcome="! malformed",
        says="Sign in",
    ),
    Row(
        id="27-text",
        sends=answer(b"upstream says no", kind="text/plain"),
        said="",
        outcome="! malformed",
        says="upstream says no",
    ),
    Row(
        id="27-other-document",
        sends=answer(b'{"models": []}', kind=JSON),
        said="",
        outcome="! malformed",
    ),
    Row(
        id="28-whole-completion",
        sends=refusal(200, _whole("Hello")),
        usage=Usage(prompt=3, completion=2),
    ),
    Row(
        id="28-whole-in-pieces",
        sends=answer(b' {"choices":[{"message":{"content":', b'"Hello"},"finish_reason":"stop"}]}'),
    ),
    Row(
        id="28-whole-unfinished", sends=refusal(200, _whole("Hello", None)), outcome="! incomplete"
    ),
    Row(
        id="28-whole-too-large",
        sends=refusal(200, _whole("Hello" * 200)),
        said="",
        outcome="! too_large",
        settings={"max_event_bytes": 900},
    ),
    Row(
        id="28-lines-of-chunks",
        sends=answer(OK.replace(b"data: ", b"").replace(b"\n\n", b"\n"), STOP[6:]),
    ),
    Row(id="29-malformed", sends=answer(OK, event(b'{"choices": [{'), STOP, DONE), skipped=1),
    Row(
        id="29-malformed-too-often",
        sends=answer(OK, *[event(b"{nonsense")] * 30, STOP),
        outcome="! malformed",
        says="nonsense",
    ),
    Row(id="29-malformed-after-finish", sends=answer(OK, STOP, *[event(b"{")] * 30), skipped=21),
    Row(
        id="30-raw-control",
        sends=answer(OK.replace(b"Hel", b"H\te\x01l")),
        said="H\te\x01llo",
        outcome="! incomplete",
    ),
    Row(
        id="30-nan",
        sends=answer(OK.replace(b'"logprobs":null', b'"logprobs":NaN,"x":-Infinity'), STOP),
    ),
    Row(id="31-after-done", sends=answer(OK, STOP, DONE, text("no"), event({"error": "no"}))),
    Row(id="31-done-and-open", sends=[*chunked(OK, STOP, DONE, text("no"), end=False), HANG]),
    Row(
        id="32-cut-chunks",
        sends=[*chunked(OK, end=False), CLOSE],
        outcome="! network",
        says="in the middle",
    ),
    Row(id="32-cut-length", sends=[head(content_length="9999"), OK, CLOSE], outcome="! network"),
    Row(id="32-reset", sends=[*chunked(OK, end=False), RESET], outcome="! network"),
    Row(
        id="32-cut-in-a-chunk",
        sends=[*chunked(OK, end=False), b"ff\r\ndata", CLOSE],
        outcome="! network",
    ),
    Row(
        id="34-odd-names",
        sends=answer(event({**ALONE, "object": "text_completion", "created": 0, "id": ""}), STOP),
        said="lo",
    ),
    Row(id="36-empty-events", sends=answer(b": nothing\n\n"), said="", outcome="! incomplete"),
    Row(
        id="too-large-event",
        sends=answer(OK, text("x" * 2000)),
        outcome="! too_large",
        settings={"max_event_bytes": 1000},
    ),
    Row(id="finish-error", sends=answer(OK, event(chunk(finish="error"))), outcome="! server"),
    Row(id="finish-abort", sends=answer(OK, event(chunk(finish="abort"))), outcome="! incomplete"),
    Row(id="finish-eos", sends=answer(OK, event(chunk(finish="eos_token")))),
    Row(id="finish-empty", sends=answer(event(chunk("Hello", "")), DONE), outcome="! incomplete"),
    Row(
        id="finish-capitals", sends=answer(OK, event(chunk(finish="MAX_TOKENS"))), outcome="length"
    ),
    Row(id="finish-on-each", sends=answer(event(chunk("Hel", "stop")), event(chunk("lo", "stop")))),
    Row(
        id="finish-on-each-open",
        sends=[*chunked(*EACH, DONE, end=False), HANG],
    ),
    Row(
        id="finish-on-each-cut",
        sends=[*chunked(*EACH, end=False), RESET],
        outcome="! network",
    ),
    Row(
        id="finish-on-each-stall",
        sends=[*chunked(*EACH, end=False), HANG],
        outcome="! incomplete",
        says="silent",
    ),
    Row(
        id="finish-on-each-error",
        sends=answer(*EACH, event({"error": {"code": 503, "message": "x"}})),
        outcome="! overloaded",
    ),
    Row(
        id="finish-on-each-abort",
        sends=answer(*EACH, event(chunk(finish="abort")), DONE),
        outcome="! incomplete",
    ),
    Row(
        id="finish-on-each-length",
        sends=answer(*EACH, event(chunk(finish="length")), DONE),
        outcome="length",
    ),
    Row(
        id="finish-filter",
        sends=answer(OK, event(chunk(finish="content_filter"))),
        outcome="content_filter",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_a_deviation_is_read_as_it_is_meant(row: Row) -> None:
    """No server's habit loses text, invents an end, or ends in a foreign exception."""
    async with raw_server(row.sends) as server:
        got = await get_from(server.url, **row.settings)

    assert (got.said(), got.outcome) == (row.said, row.outcome)
    if got.finish is not None:
        assert got.finish.skipped == row.skipped
        assert got.finish.usage == row.usage
    if got.error is not None:
        assert row.says in got.error.message
