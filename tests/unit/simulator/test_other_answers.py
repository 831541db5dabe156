"""Faults that answer something else than text."""

from __future__ import annotations

import json

import pytest

from tests.unit.simulator.conftest import Start

TOKENS = 30
QUESTION = "Tell me of the harbour."


@pytest.mark.parametrize(
    ("fault", "status", "code", "kind", "wait"),
    [
        ("status=429,retry_after=2", 429, "rate_limit_exceeded", "rate_limit_error", "2"),
        ("status=429,code=insufficient_quota", 429, "insufficient_quota", "rate_limit_error", None),
        ("status=500", 500, None, "server_error", None),
        ("status=502", 502, None, "server_error", None),
        ("status=503,retry_after=0.5", 503, None, "server_error", "0.5"),
        ("status=529", 529, "overloaded_error", "server_error", None),
        ("status=401", 401, "invalid_api_key", "authentication_error", None),
        ("status=418", 418, None, "invalid_request_error", None),
    ],
)
async def test_a_request_can_be_refused(
    sim: Start, fault: str, status: int, code: str | None, kind: str, wait: str | None
) -> None:
    """With status, error object and `Retry-After`; nothing is generated or billed."""
    client = await sim()

    got = await client.chat(fault=fault)

    assert (got.status, got.error["code"], got.error["type"]) == (status, code, kind)
    assert got.headers.get("retry-after") == wait
    stats = await client.sim("stats")
    assert (stats["generated"], stats["prompt_tokens"]) == (0, 0)
    assert stats["by_status"] == {str(status): 1}


async def test_a_retry_after_can_be_a_date(sim: Start) -> None:
    """In the form of a JSON object, as it holds a comma."""
    client = await sim()
    date = "Wed, 21 Oct 2026 07:28:00 GMT"

    got = await client.chat(fault=json.dumps({"status": 503, "retry_after": date}))

    assert got.headers["retry-after"] == date.lower()


async def test_fields_can_be_refused(sim: Start) -> None:
    """With 422, as strict servers do; a request without them is answered."""
    client = await sim()

    got = await client.chat(fault="refuse=n+stream_options", stream_options={})

    assert (got.status, got.error["param"]) == (422, "stream_options")
    assert (await client.chat(fault="refuse=n+stream_options")).status == 200


async def test_an_answer_can_be_no_stream_although_one_was_asked_for(sim: Start) -> None:
    """A whole completion, a bare error, or nothing."""
    client = await sim(tokens=TOKENS)

    whole = await client.chat(fault="json_answer")
    detail = await client.chat(fault="bare_detail")
    nothing = await client.chat(fault="empty_body")

    assert whole.headers["content-type"] == "application/json"
    assert json.loads(whole.body)["choices"][0]["finish_reason"] == "stop"
    assert list(json.loads(detail.body)) == ["detail"]
    assert detail.headers["content-type"].startswith("text/event-stream")
    assert (nothing.status, nothing.body, nothing.ended) == (200, b"", "complete")


async def test_an_answer_can_have_no_text_and_still_use_its_budget(sim: Start) -> None:
    """`length` without a visible word: all went into thoughts that are not shown."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault="empty_length", stream_options={"include_usage": True})
    whole = await client.chat(fault="empty_length", stream=False)

    assert (got.text, got.finish) == ("", ["length"])
    assert got.events[-1]["usage"]["completion_tokens"] == 16
    assert json.loads(whole.body)["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_thoughts_can_come_before_the_text(sim: Start, field: str) -> None:
    """In the field that is asked for; they are tokens too, and the text stays the same."""
    client = await sim(tokens=TOKENS)
    text = (await client.chat()).text

    got = await client.chat(fault=f"reasoning=7,reasoning_field={field}")
    both = await client.chat(fault="reasoning=7,reasoning_field=both")
    whole = await client.chat(fault="reasoning=7", stream=False)

    deltas = [event["choices"][0]["delta"] for event in got.events]
    thoughts = [delta[field] for delta in deltas if field in delta]
    assert len(thoughts) == 7
    assert got.text == both.text == whole.text == text
    assert both.events[1]["choices"][0]["delta"] == {
        "reasoning": thoughts[0],
        "reasoning_content": thoughts[0],
    }
    assert json.loads(whole.body)["choices"][0]["message"]["reasoning_content"] == "".join(thoughts)
    assert [record["tokens"] for record in await client.sim("requests")][1:] == 3 * [TOKENS + 7]


async def test_an_answer_can_be_a_refusal(sim: Start) -> None:
    """Refusal deltas and no content; finish reason `stop`."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault="refusal=4")

    deltas = [event["choices"][0]["delta"] for event in got.events]
    assert sum("refusal" in delta for delta in deltas) == 4
    assert (got.text, got.finish) == ("", ["stop"])


@pytest.mark.parametrize("tokens", [1, 2, 9])
async def test_an_answer_can_be_a_tool_call(sim: Start, tokens: int) -> None:
    """Name and id once, then arguments that join to a JSON object; finish `tool_calls`."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault=f"tool_calls={tokens}")
    whole = await client.chat(fault=f"tool_calls={tokens}", stream=False)

    deltas = [event["choices"][0]["delta"] for event in got.events]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [call["function"].get("name") for call in calls] == ["write"] + tokens * [None]
    assert list(json.loads("".join(call["function"]["arguments"] for call in calls))) == ["text"]
    assert got.finish == ["tool_calls"]
    assert json.loads(whole.body)["choices"][0]["finish_reason"] == "tool_calls"
