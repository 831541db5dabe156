"""What the simulator counts."""

from __future__ import annotations

from typing import Any

from tests.unit.simulator.client import body_of
from tests.unit.simulator.conftest import Start

EMPTY: dict[str, Any] = {
    "requests": 0,
    "generated": 0,
    "prompt_tokens": 0,
    "live": 0,
    "peak_live": 0,
    "by_status": {},
}


async def test_everything_is_counted(sim: Start) -> None:
    """Tokens, prompts, statuses; models and texts are nobody's request."""
    client = await sim(tokens=9)
    assert await client.sim("stats") == EMPTY

    await client.chat("x" * 400)
    await client.chat(stream=False, max_tokens=4)
    await client.chat(fault="status=503")
    await client.chat(model="nope")
    await client.ask("POST", "/v1/chat/completions", b"?")
    await client.ask("GET", "/v1/models")
    await client.sim("text", body_of())

    stats = await client.sim("stats")
    assert stats["requests"] == 5
    assert stats["generated"] == 13
    assert 100 < stats["prompt_tokens"] < 120
    assert stats["by_status"] == {"200": 2, "400": 1, "404": 1, "503": 1}
    assert (stats["live"], stats["peak_live"]) == (0, 1)


async def test_a_prefix_is_billed(sim: Start) -> None:
    """Whether it is gone on from or ignored: it was read."""
    client = await sim(tokens=200)
    text = (await client.chat()).text
    fresh = (await client.sim("stats"))["prompt_tokens"]

    await client.chat("Say something.", text)
    honoured = (await client.sim("stats"))["prompt_tokens"] - fresh
    await client.chat("Say something.", text, fault="prefix_ignored")
    ignored = (await client.sim("stats"))["prompt_tokens"] - fresh - honoured

    assert honoured == ignored > fresh + 200


async def test_a_stream_that_the_client_cuts_counts_what_was_written(sim: Start) -> None:
    """And no more: at a pace, what comes after the client left is never made."""
    client = await sim(tokens=1_000_000, rate=500)

    async with client.connect() as wire:
        wire.send("POST", "/v1/chat/completions", body_of())
        data = b""
        while data.count(b"\n\n") < 20:
            data += await wire.reader.read(65536)
        assert (await client.sim("stats"))["live"] == 1
    stats = await client.until(lambda stats: stats["live"] == 0)

    assert 19 <= stats["generated"] < 500
    assert await client.sim("stats") == stats
    (record,) = await client.sim("requests")
    assert (record["ended"], record["tokens"]) == ("client", stats["generated"])


async def test_live_streams_are_counted_while_they_live(sim: Start) -> None:
    """Now and at most; what they have said so far is generated."""
    client = await sim(tokens=1_000_000, rate=100)

    async with client.connect() as one, client.connect() as other:
        for wire in (one, other):
            wire.send("POST", "/v1/chat/completions", body_of())
        stats = await client.until(lambda stats: stats["live"] == 2 and stats["generated"] > 4)
    await client.until(lambda stats: stats["live"] == 0)
    await client.chat(max_tokens=1)

    assert stats["peak_live"] == 2
    assert (await client.sim("stats"))["peak_live"] == 2


async def test_more_answers_than_are_allowed_are_refused(sim: Start) -> None:
    """With 429, until one of them is over."""
    client = await sim(tokens=5, max_live=1)

    async with client.connect() as wire:
        wire.send("POST", "/v1/chat/completions", body_of(), x_sim_fault="stall_after_tokens=1")
        await client.until(lambda stats: stats["live"] == 1)
        refused = await client.chat()
    await client.until(lambda stats: stats["live"] == 0)

    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert (await client.chat()).finish == ["stop"]


async def test_more_requests_a_minute_than_are_allowed_are_refused(sim: Start) -> None:
    """With the time until the next; what is accepted says how much is left."""
    client = await sim(tokens=1, rpm=60)

    accepted, refused = await client.chat(), await client.chat()

    assert (accepted.status, refused.status) == (200, 429)
    assert accepted.headers["x-ratelimit-limit-requests"] == "60"
    assert accepted.headers["x-ratelimit-remaining-requests"] == "0"
    assert accepted.headers["x-ratelimit-reset-requests"].endswith("ms")
    assert 0 < float(refused.headers["retry-after"]) <= 1


async def test_a_reset_begins_anew(sim: Start) -> None:
    """Counts, records and the requests that rules count."""
    client = await sim(tokens=5)
    for _ in range(3):
        await client.chat()

    await client.sim("reset", b"")

    assert await client.sim("stats") == EMPTY
    assert await client.sim("requests") == []


async def test_the_last_requests_are_remembered(sim: Start) -> None:
    """As many as set, or fewer if so asked; each says what it was and how it ended."""
    client = await sim(tokens=9, keep=3)
    text = (await client.chat("one")).text
    await client.chat("one", text[:20], "continue")
    await client.chat("two", text[:7])
    await client.chat("three", fault="status=500", stream=False)

    records = await client.sim("requests")

    told = [(r["question"], r["kind"], r["stream"], r["ended"], r["status"]) for r in records]
    assert told == [
        ("one", "ask", True, "stop", 200),
        ("two", "prefix", True, "stop", 200),
        ("three", "answer", False, "refused", 500),
    ]
    assert records[0]["prefix_bytes"] == records[0]["resumed_at"] == len(text[:20].encode())
    assert records[2]["faults"] == {"status": 500}
    assert await client.sim("requests?last=1") == records[2:]


async def test_a_text_of_any_length_is_sent(sim: Start) -> None:
    """In pieces, as it is made; nothing of it is counted."""
    client = await sim(tokens=100_000, rate=10)

    text = await client.sim("text", body_of())

    assert len(text) > 300_000
    assert (await client.sim("stats"))["generated"] == 0
