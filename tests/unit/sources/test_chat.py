"""The chat source against a server: what it sends, what it learns, how it fails and stops."""

from __future__ import annotations

import contextlib
import gzip
from typing import Any

import pytest

from pipeline.ports import Ask, Delta, GoOnFrom, Opened
from pipeline.sources.chat import ChatSource
from pipeline.sources.ticks import Unpaced
from tests.unit.sources.asking import BODY, KEY, MODEL, get, get_from, served
from tests.unit.sources.raw import (
    CLOSE,
    DONE,
    HANG,
    RESET,
    STOP,
    Step,
    answer,
    chunked,
    head,
    raw_server,
    refusal,
    text,
)
from tokenspool.model import Endpoint, Prefill

GOOD = chunked(text("Hello"), STOP, DONE)
NO_OPTIONS = refusal(
    422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"]}]}
)
NO_NEW_LIMIT = refusal(400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}})


async def test_the_request_is_the_users() -> None:
    """The body goes out as it is, with key and stream; nothing of it is dropped or retried."""
    body = {
        **BODY,
        "top_k": 7,
        "messages": [{"role": "user", "content": [{"type": "odd"}]}],
        "n": 1,
    }
    async with served(GOOD) as (server, source):
        await get(source, Ask(body=body))

    [request] = server.requests
    assert request.path == "/v1/chat/completions"
    assert f"authorization: Bearer {KEY}" in request.head
    assert "Accept-Encoding: identity" in request.head
    assert request.json == {
        "model": MODEL,
        "messages": body["messages"],
        "top_k": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_headers_come_first() -> None:
    """The first item says that the request was accepted, with the provider's name for it."""
    script: list[Step] = [
        head(x_request_id="req_7", x_ratelimit_remaining_requests="3"),
        text("a"),
        STOP,
        CLOSE,
    ]
    async with raw_server(script) as server:
        got = await get_from(server.url)

    assert got.opened is not None
    assert got.opened.request_id == "req_7"
    assert got.opened.headers["x-ratelimit-remaining-requests"] == "3"


@pytest.mark.parametrize(
    ("refused", "ask", "absent", "present"),
    [
        (NO_OPTIONS, Ask(body=BODY), "stream_options", None),
        (NO_NEW_LIMIT, Ask(body=BODY, limit=5), "max_tokens", "max_completion_tokens"),
    ],
    ids=["38-stream-options", "39-limit"],
)
async def test_a_refused_parameter_is_left_out_from_then_on(
    refused: Any, ask: Ask, absent: str, present: str | None
) -> None:
    """Rows 38 and 39: asked once more without it, and never again with it."""
    async with served(refused, GOOD) as (server, source):
        first, second = await get(source, ask), await get(source, ask)

    assert (first.outcome, second.outcome) == ("stop", "stop")
    assert len(server.requests) == 3
    for request in server.requests[1:]:
        assert absent not in request.json
        assert present is None or request.json[present] == 5


async def test_an_endpoint_that_refuses_all_is_asked_three_times_at_most() -> None:
    """Finding out what an endpoint takes ends; nothing that failed is remembered."""
    refused = refusal(400, {"error": {"message": "unsupported: max_tokens, max_completion_tokens"}})
    async with served(refused) as (server, source):
        got = await get(source, Ask(body=BODY, limit=5))
        tries = len(server.requests)
        await get(source, Ask(body=BODY, limit=5))

    assert (got.outcome, tries) == ("! request", 3)
    assert server.requests[3].json["max_tokens"] == 5


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_nothing_is_retried_behind_the_engine(status: int) -> None:
    """Retries are the engine's, on record: the client sends each request once."""
    refused = refusal(status, {"error": {"message": "no"}}, retry_after="1")
    async with raw_server(refused) as server:
        got = await get_from(server.url)

    assert got.error is not None
    assert (got.error.status, got.error.retry_after_s) == (status, 1.0)
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [{"messages": "no list"}, {}, {"messages": None, "model": 7}])
async def test_an_odd_body_is_sent_as_it_is(body: dict[str, Any]) -> None:
    """Whether a body is right is for the endpoint to say."""
    async with served(refusal(400, {"error": {"message": "no"}})) as (server, source):
        got = await get(source, Ask(body=body))

    assert got.outcome == "! request"
    assert server.requests[0].json.get("messages", []) == body.get("messages", [])


@pytest.mark.parametrize("content", ["\ud800", float("nan"), {1, 2}], ids=["half", "nan", "set"])
async def test_what_is_no_json_is_a_refused_request(content: object) -> None:
    """What cannot be sent is the job's fault, not the end of the worker."""
    async with served(GOOD) as (_server, source):
        got = await get(source, Ask(body={"messages": [{"role": "user", "content": content}]}))

    assert got.outcome == "! request"


async def test_the_key_is_in_no_message() -> None:
    """A server that says the key back does not get it into a message, nor into a traceback."""
    async with raw_server(refusal(401, {"error": {"message": f"bad key {KEY}"}})) as server:
        got = await get_from(server.url)

    assert got.outcome == "! auth"
    assert got.error is not None
    assert KEY not in str(got.error)
    assert got.error.__cause__ is None
    assert got.error.__suppress_context__


async def test_no_organisation_leaves_for_a_foreign_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says for OpenAI is not sent to somebody else."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    async with raw_server(GOOD) as server:
        await get_from(server.url)

    assert "mine" not in server.requests[0].head


async def test_a_base_url_keeps_its_query() -> None:
    """A version in the base URL is sent with every request."""
    async with raw_server(GOOD) as server:
        await get_from(server.url + "/?api-version=2")

    assert server.requests[0].path == "/v1/chat/completions?api-version=2"


async def test_going_on_uses_the_same_wire() -> None:
    """A prefix goes out as the trailing message and its continuation comes back."""
    turn = GoOnFrom(text="Hel", flag=Prefill.CONTINUE_FINAL_MESSAGE)
    async with served(chunked(text("lo"), STOP, DONE)) as (server, source):
        got = await get(source, Ask(body=BODY, turn=turn))

    sent = server.requests[0].json
    assert got.said() == "lo"
    assert sent["continue_final_message"] is True
    assert sent["add_generation_prompt"] is False


async def test_an_answer_left_early_closes_its_connection() -> None:
    """Who stops reading in the middle leaves nothing open, here or there."""
    async with served([*chunked(text("Hello"), end=False), HANG]) as (server, source):
        async with contextlib.aclosing(source.stream(Ask(body=BODY))) as events:
            seen = [type(await anext(events)), type(await anext(events))]
        assert seen == [Opened, Delta]
        await server.left.wait()


async def test_a_moved_server_is_followed() -> None:
    """A redirect that keeps the method is followed to where the server is now."""
    async with raw_server(GOOD) as server:
        moved = [head(308, location=server.url + "/chat/completions", content_length="0")]
        async with raw_server(moved) as old:
            got = await get_from(old.url)

    assert got.said() == "Hello"


async def test_a_packed_answer_is_unpacked() -> None:
    """A server that compresses although it was asked not to is read all the same."""
    packed = gzip.compress(text("Hello") + STOP + DONE)
    async with raw_server([head(content_encoding="gzip"), packed, CLOSE]) as server:
        got = await get_from(server.url)

    assert (got.said(), got.outcome) == ("Hello", "stop")


@pytest.mark.parametrize(
    "script",
    [
        [head(429, "text/plain"), *[b"x" * 65536] * 400, CLOSE],
        [head(429, content_length="99"), b"cut", CLOSE],
        [head(429, content_length="99"), b"cut", RESET],
        [head(429, transfer_encoding="chunked"), b"3\r\ncut", CLOSE],
    ],
    ids=["endless", "cut", "reset", "cut-chunk"],
)
async def test_a_broken_refusal_is_a_refusal(script: list[Step]) -> None:
    """However the text of a refusal ends, its status counts; an endless one is not read."""
    async with raw_server(script) as server:
        got = await get_from(server.url)

    assert got.outcome == "! rate_limited"
    assert server.sent < 20 * 1024 * 1024


async def test_a_packed_refusal_is_unpacked() -> None:
    """The reason can be read, also when it was compressed unasked."""
    packed = gzip.compress(b'{"error": {"message": "one reason"}}')
    script = [head(429, content_encoding="gzip", content_length=str(len(packed))), packed]
    async with raw_server(script) as server:
        got = await get_from(server.url)

    assert got.error is not None
    assert "one reason" in got.error.message


async def test_comments_do_not_keep_a_finished_answer_waiting() -> None:
    """Row 2: after the finish reason the time to wait is one span, whatever else still comes."""
    comments: list[Step] = [b"4\r\n: \n\n\r\n", 0.02] * 200
    script = [*chunked(text("Hello"), STOP, end=False), *comments, HANG]
    async with served(script, drain_s=0.05) as (server, source):
        got = await get(source)
        sent = server.sent

    assert got.outcome == "stop"
    assert sent < 9 * 100


async def test_answers_end_in_an_answer() -> None:
    """A stream that a server closes before its first event is no answer."""
    async with raw_server(answer()) as server:
        got = await get_from(server.url)

    assert got.opened is not None
    assert got.outcome == "! incomplete"


async def test_a_server_without_a_key_is_still_sent_the_placeholder() -> None:
    """What is shown of messages and what is sent as the key are two things."""
    async with raw_server(GOOD) as server:
        endpoint = Endpoint(url=server.url, model=MODEL)
        source = ChatSource(endpoint, api_key="none", pace=Unpaced())
        try:
            got = await get(source)
        finally:
            await source.close()

    assert got.outcome == "stop"
    assert "authorization: Bearer none" in server.requests[0].head
