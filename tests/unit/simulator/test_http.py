"""HTTP as clients speak it, well and badly."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from simulator.server import serve
from simulator.settings import SimSettings
from tests.unit.simulator.client import Client, body_of
from tests.unit.simulator.conftest import Start


async def test_a_connection_serves_many_requests(sim: Start) -> None:
    """Streamed or not, refused or not: it stays open."""
    client = await sim(tokens=5)

    async with client.connect() as wire:
        for body, status in ((body_of(), 200), (body_of(stream=False), 200), (b"?", 400)) * 3:
            wire.send("POST", "/v1/chat/completions", body)
            assert (await wire.receive()).status == status


async def test_requests_sent_ahead_are_answered_in_order(sim: Start) -> None:
    """Three requests in one go, also while an answer is still being given."""
    client = await sim(tokens=20, rate=2000)

    async with client.connect() as wire:
        for tokens in (3, 7, 5):
            wire.send("POST", "/v1/chat/completions", body_of(), x_sim_tokens=str(tokens))
        answers = [await wire.receive() for _ in range(3)]

    assert [len(got.events) - 2 for got in answers] == [3, 7, 5]


async def test_requests_sent_during_an_answer_are_answered_after_it(sim: Start) -> None:
    """They wait, and are not forgotten."""
    client = await sim(tokens=10, rate=500)

    async with client.connect() as wire:
        for _ in range(3):
            wire.send("POST", "/v1/chat/completions", body_of())
            await client.until(lambda stats: stats["live"] == 1)
        answers = [await wire.receive() for _ in range(3)]

    assert [got.finish for got in answers] == 3 * [["stop"]]


async def test_what_is_sent_ahead_is_not_piled_up(sim: Start) -> None:
    """During an answer one read is taken; the rest stays in the client's socket."""
    client = await sim()

    async with client.connect() as wire:
        wire.send("POST", "/v1/chat/completions", body_of(), x_sim_fault="stall_after_tokens=0")
        await client.until(lambda stats: stats["live"] == 1)
        wire.writer.write(bytes(32 * 1024 * 1024))
        for _ in range(50):
            await client.sim("stats")

        assert wire.writer.transport.get_write_buffer_size() > 16 * 1024 * 1024
        wire.writer.transport.abort()


async def test_a_server_that_is_told_to_stop_leaves_its_clients() -> None:
    """Live streams and idle connections are closed, so that the loop can end."""
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(SimSettings(rate=1), told.set_result))
    client = Client(int((await told).rsplit(":", 1)[1].removesuffix("/v1")))

    async with client.connect() as idle, client.connect() as live:
        live.send("POST", "/v1/chat/completions", body_of())
        await client.until(lambda stats: stats["live"] == 1)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

        assert (await live.receive()).ended in {"fin", "rst"}
        assert (await idle.receive()).ended in {"fin", "rst"}


async def test_a_body_may_come_in_pieces_and_byte_by_byte(sim: Start) -> None:
    """A chunked request body is put together, however the network cut it."""
    client = await sim(tokens=5)
    body = body_of()
    chunks = b"".join(b"%x;x=1\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"

    async with client.connect() as wire:
        for byte in head + chunks + b"0\r\n\r\n":
            wire.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        got = await wire.receive()

    assert got.status == 200
    assert got.finish == ["stop"]


async def test_a_client_that_asks_whether_to_go_on_is_told_so(sim: Start) -> None:
    """`Expect: 100-continue`, as curl says it for large bodies."""
    client = await sim(tokens=5)
    body = body_of()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    )

    async with client.connect() as wire:
        wire.writer.write(head % len(body))
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.writer.write(body)

        assert (await wire.receive()).status == 200


async def test_a_client_that_wants_the_connection_closed_gets_its_way(sim: Start) -> None:
    """For a stream and for a reply that is there at once."""
    client = await sim(tokens=5)

    for method, path, body in (
        ("POST", "/v1/chat/completions", body_of()),
        ("GET", "/v1/models", b""),
    ):
        async with client.connect() as wire:
            wire.send(method, path, body, connection="close")
            assert (await wire.receive()).ended == "complete"
            assert await wire.reader.read() == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 67108865\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4000001\r\n", 413),
        (b"GET /v1/models HTTP/1.1\r\nx: " + b"y" * 70_000, 431),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", 505),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nmany\r\n", 400),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(
    sim: Start, sent: bytes, status: int
) -> None:
    """Whatever follows could not be told from it; memory is bounded before it is read."""
    client = await sim()

    async with client.connect() as wire:
        wire.writer.write(sent)

        assert (await wire.receive()).status == status
        assert await wire.reader.read() == b""


async def test_a_large_conversation_is_taken(sim: Start) -> None:
    """Eight megabytes of prompt."""
    client = await sim(tokens=5)

    got = await client.chat("x" * 8_000_000, stream_options={"include_usage": True})

    assert got.events[-1]["usage"]["prompt_tokens"] > 2_000_000


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/v1/chat/completions"), ("POST", "/sim/nothing")]
)
async def test_what_is_not_there_is_not_found(sim: Start, method: str, path: str) -> None:
    """With an error object that names it."""
    client = await sim()

    got = await client.ask(method, path)

    assert got.status == 404
    assert path in got.error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"model":"m"}', None),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', None),
        (b'{"model":"m","messages":[]}', "messages"),
        (body_of(n=2), "n"),
        (body_of(max_tokens=0), "max_tokens"),
    ],
)
async def test_what_is_no_chat_request_is_refused(
    sim: Start, body: bytes, param: str | None
) -> None:
    """With 400 and OpenAI's error object."""
    client = await sim()

    got = await client.ask("POST", "/v1/chat/completions", body)

    assert got.status == 400
    assert got.error["type"] == "invalid_request_error"
    assert got.error["param"] == param


async def test_any_key_will_do_unless_one_is_set(sim: Start) -> None:
    """A wrong key and none at all are 401 on every path of the API; `/sim` needs none."""
    open_one, closed = await sim(), await sim(api_key="right")

    assert (await open_one.ask("GET", "/v1/models", authorization="Bearer any")).status == 200
    assert (await open_one.ask("GET", "/v1/models")).status == 200
    assert (await closed.ask("GET", "/v1/models", authorization="Bearer right")).status == 200
    wrong: dict[str, Any] = {"authorization": "Bearer wrong"}
    for headers in ({}, wrong):
        got = await closed.ask("POST", "/v1/chat/completions", body_of(), **headers)
        assert got.status == 401
        assert got.error["code"] == "invalid_api_key"
        assert (await closed.ask("GET", "/v1/models", **headers)).status == 401
    assert (await closed.ask("GET", "/sim/stats")).status == 200


async def test_a_model_is_there_unless_its_name_says_otherwise(sim: Start) -> None:
    """Names like `no-such-model` are not found, in chat and in the list alike."""
    client = await sim(tokens=3)

    for name in ("gpt-9", "org/model%3Alatest"):
        got = await client.ask("GET", f"/v1/models/{name}")
        assert json.loads(got.body)["id"] == name.replace("%3A", ":")
    for name in ("no-such-model", "unknown", "missing-1", "nope"):
        asked, listed = await client.chat(model=name), await client.ask("GET", f"/v1/models/{name}")
        assert asked.status == listed.status == 404
        assert asked.error["code"] == listed.error["code"] == "model_not_found"


async def test_only_the_models_that_are_set_are_there(sim: Start) -> None:
    """Then every other name is not found."""
    client = await sim(tokens=3, models=("one", "two"))

    listed = json.loads((await client.ask("GET", "/v1/models")).body)["data"]

    assert [model["id"] for model in listed] == ["one", "two"]
    assert (await client.chat(model="two")).status == 200
    assert (await client.chat(model="three")).status == 404


async def test_an_answer_that_is_not_streamed_is_whole(sim: Start) -> None:
    """Text, finish reason and usage of the same answer as streamed."""
    client = await sim(tokens=30)
    streamed = await client.chat()

    got = await client.chat(stream=False, max_tokens=20)

    answer = json.loads(got.body)
    assert answer["object"] == "chat.completion"
    assert streamed.text.startswith(got.text)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 20
    assert got.headers["content-type"] == "application/json"


async def test_a_stream_has_the_form_of_openai(sim: Start) -> None:
    """A role first, a token per event and chunk, a finish, the usage when asked for, [DONE]."""
    client = await sim(tokens=4)

    got = await client.chat(stream_options={"include_usage": True})

    assert got.headers["content-type"].startswith("text/event-stream")
    assert len(got.pieces) == len(got.events) + 1 == 1 + 4 + 1 + 1 + 1
    assert all(piece.startswith(b"data: ") and piece.endswith(b"\n\n") for piece in got.pieces)
    first, *tokens, finish, usage = got.events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(list(event["choices"][0]["delta"]) == ["content"] for event in tokens)
    assert finish["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    assert {event["usage"] for event in (first, *tokens, finish)} == {None}
    assert {event["object"] for event in got.events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in got.events}) == 1
    assert got.pieces[-1] == b"data: [DONE]\n\n"


async def test_a_stream_does_not_speak_of_usage_unless_asked(sim: Start) -> None:
    """As OpenAI: without `include_usage` there is no such member."""
    client = await sim(tokens=4)

    got = await client.chat()

    assert all("usage" not in event for event in got.events)
