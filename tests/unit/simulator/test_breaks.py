"""Faults that end an answer, stop it, or lie about its end."""

from __future__ import annotations

import json

import pytest

from tests.unit.simulator.client import body_of, contents, is_done, plain_bytes
from tests.unit.simulator.conftest import Start

TOKENS = 30
QUESTION = "Tell me of the harbour."


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("rate", [0, 2000])
@pytest.mark.parametrize("tokens", [0, 1, 17, 30])
async def test_a_cut_after_tokens_is_exact(sim: Start, how: str, rate: int, tokens: int) -> None:
    """All tokens before it arrive, none after it, and no end is said; in burst and at a pace."""
    client = await sim(tokens=TOKENS, rate=rate)

    got = await client.chat(QUESTION, fault=f"cut_after_tokens={tokens},cut={how}")

    assert (got.ended, contents(got), got.finish) == (how, tokens, [])
    (record,) = await client.sim("requests")
    assert (record["ended"], record["tokens"]) == ("cut", tokens)


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("size", [0, 1, 300, 1001, 5000])
async def test_a_cut_after_bytes_is_exact(sim: Start, how: str, size: int) -> None:
    """The body's first bytes arrive, to the byte."""
    client = await sim(tokens=TOKENS)
    whole = (await client.chat(QUESTION)).body

    got = await client.chat(QUESTION, fault=f"cut_after_bytes={size},cut={how}")

    assert got.ended == how
    assert len(got.body) == size
    # Everything but the answer's own number.
    assert plain_bytes(got.body) == plain_bytes(whole)[:size]


async def test_a_cut_takes_nothing_back(sim: Start) -> None:
    """A reset waits until the client's side has all that was said, also if it reads late."""
    client = await sim(tokens=1_000_000)

    async with client.connect() as wire:
        wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
        wire.send("POST", "/v1/chat/completions", body_of(), x_sim_fault="cut_after_tokens=3000")
        await client.until(lambda stats: stats["generated"] == 3000 and stats["live"] == 0)
        wire.reader._transport.resume_reading()  # type: ignore[attr-defined]
        got = await wire.receive()

    assert (got.ended, contents(got)) == ("rst", 3000)


async def test_a_cut_between_events_counts_the_token_before_it(sim: Start) -> None:
    """And a cut at the very end is one too."""
    client = await sim(tokens=TOKENS)
    pieces = (await client.chat(QUESTION)).pieces

    for count, tokens in ((1 + 3, 3), (len(pieces), TOKENS)):
        size = sum(map(len, pieces[:count]))
        got = await client.chat(QUESTION, fault=f"cut_after_bytes={size}")

        assert (got.ended, len(got.body)) == ("rst", size)
        assert (await client.sim("requests?last=1"))[0]["tokens"] == tokens


async def test_a_whole_answer_can_be_cut_too(sim: Start) -> None:
    """Its length is announced, and less comes."""
    client = await sim(tokens=TOKENS)

    by_bytes = await client.chat(stream=False, fault="cut_after_bytes=40,cut=fin")
    by_tokens = await client.chat(stream=False, fault="cut_after_tokens=4,cut=fin")

    assert (by_bytes.ended, len(by_bytes.body)) == ("fin", 40)
    assert (by_tokens.ended, by_tokens.status) == ("fin", 0)
    assert (await client.sim("stats"))["generated"] == TOKENS + 4


async def test_a_stream_can_end_as_if_all_were_said(sim: Start) -> None:
    """A clean end of the body, without finish reason or [DONE]."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault="end_after_tokens=11")

    assert (got.ended, contents(got), got.finish, is_done(got)) == ("complete", 11, [], False)
    assert [record["ended"] for record in await client.sim("requests")] == ["end"]


async def test_a_fault_behind_the_end_does_not_happen(sim: Start) -> None:
    """A short answer is not cut at a place that it does not reach."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault=f"cut_after_tokens={TOKENS + 1},garbage_at={TOKENS + 1}")

    assert (got.ended, got.finish, is_done(got)) == ("complete", ["stop"], True)


async def test_a_stall_says_nothing_more(sim: Start) -> None:
    """The connection stays open; the answer is live until the client leaves."""
    client = await sim(tokens=TOKENS)

    async with client.connect() as wire:
        wire.send("POST", "/v1/chat/completions", body_of(), x_sim_fault="stall_after_tokens=5")
        data = b""
        while data.count(b"\n\n") < 1 + 5:
            data += await wire.reader.read(65536)
        stats = await client.sim("stats")
        assert (stats["live"], stats["generated"]) == (1, 5)

    await client.until(lambda stats: stats["live"] == 0)
    assert [record["ended"] for record in await client.sim("requests")] == ["client"]


async def test_a_stall_may_end_and_keep_alive_with_comments(sim: Start) -> None:
    """Then the answer goes on as if nothing had been."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault="stall_after_tokens=5,stall_s=0.05,stall_comments_s=0.02")

    before, *comments, after = got.body.split(b": keep-alive\n\n")
    assert before.count(b"\n\n") == 1 + 5
    assert comments == [b"", b""]
    assert after.count(b"\n\n") == TOKENS - 5 + 2
    assert is_done(got)


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_request_can_go_unanswered(sim: Start, how: str) -> None:
    """The connection breaks before a byte was said."""
    client = await sim()

    got = await client.chat(fault=f"no_answer,cut={how}")

    assert (got.status, got.ended) == (0, how)
    assert (await client.sim("stats"))["by_status"] == {"0": 1}


async def test_an_error_can_come_in_the_middle(sim: Start) -> None:
    """An error object, with its code, or only a string; the status was 200 long before."""
    client = await sim(tokens=TOKENS)

    as_object = await client.chat(fault="error_after_tokens=3,code=rate_limit_exceeded")
    as_string = await client.chat(fault="error_text_after_tokens=3")

    assert contents(as_object) == contents(as_string) == 3
    assert as_object.events[-1]["error"]["code"] == "rate_limit_exceeded"
    assert as_string.events[-1]["error"].startswith("server_error: ")
    assert as_object.finish == [] == as_string.finish
    assert is_done(as_object)
    assert is_done(as_string)


async def test_an_answer_can_begin_late(sim: Start) -> None:
    """Not even its head is sent before."""
    client = await sim(tokens=3)

    async with client.connect() as wire:
        wire.send("POST", "/v1/chat/completions", body_of(), x_sim_fault="slow_start_s=60")
        await client.until(lambda stats: stats["live"] == 1)

        assert wire.reader._buffer == b""  # type: ignore[attr-defined]
    got = await client.chat(fault="slow_start_s=0.01")
    assert got.finish == ["stop"]


@pytest.mark.parametrize(
    ("fault", "finish", "ends_with_done"),
    [
        ("no_finish", [], True),
        ("null_finish", [], True),
        ("no_done_end", ["stop"], False),
        ("duplicate_finish", ["stop", "stop"], True),
        ("finish=content_filter", ["content_filter"], True),
        ("after_done", ["stop", "length"], False),
    ],
)
async def test_an_end_can_be_said_otherwise(
    sim: Start, fault: str, finish: list[str], *, ends_with_done: bool
) -> None:
    """Finish reason and [DONE]: missing, twice, other ones, or with something behind them."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault=fault)

    assert got.finish == finish
    assert is_done(got) == ends_with_done
    assert got.ended == "complete"
    assert got.body.count(b"[DONE]") == (fault != "no_done_end")


async def test_no_finish_leaves_the_finish_out_and_null_finish_says_null(sim: Start) -> None:
    """One event less, or an event that has no reason."""
    client = await sim(tokens=TOKENS)

    without, null = await client.chat(fault="no_finish"), await client.chat(fault="null_finish")

    assert len(without.events) == len(null.events) - 1
    assert null.events[-1]["choices"][0]["delta"] == {}


async def test_a_connection_can_stay_open_behind_the_finish(sim: Start) -> None:
    """A finish reason, no [DONE], and silence."""
    client = await sim(tokens=3)

    async with client.connect() as wire:
        wire.send("POST", "/v1/chat/completions", body_of(), x_sim_fault="no_done")
        await wire.reader.readuntil(b'"finish_reason":"stop"')
        assert (await client.sim("stats"))["live"] == 1

    await client.until(lambda stats: stats["live"] == 0)
    assert [record["ended"] for record in await client.sim("requests")] == ["stop"]


async def test_the_last_event_can_lack_its_blank_line(sim: Start) -> None:
    """The finish reason is the last thing said, and its event is not ended."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(fault="unterminated")

    last = got.body.rsplit(b"\n\n", 1)[1]
    assert json.loads(last.removeprefix(b"data: "))["choices"][0]["finish_reason"] == "stop"
