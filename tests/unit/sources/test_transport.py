"""The transport: sockets that rest, connections that are used again, nothing left open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field

import aiohttp
import httpx2
import pytest

from pipeline.ports import Ask, Delta
from pipeline.sources.ticks import TickStream, Unpaced
from pipeline.sources.transport import TICKS, TickTransport
from tests.unit.sources.asking import BODY, chat_source, get, served
from tests.unit.sources.raw import (
    DONE,
    HANG,
    STOP,
    Step,
    chunked,
    head,
    raw_server,
    text,
)
from tests.unit.sources.tls import serving, trusting
from tokenspool.model import Kind

ANSWER = chunked(text("Hello"), STOP, DONE)


@dataclass(slots=True)
class StepPace:
    """A pace whose ticks the test gives; counts who waits for one."""

    waited: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def tick(self, key: int) -> None:
        """Wait for the test."""
        assert key >= 0
        self.waited += 1
        self.asked.set()
        await self.gate.wait()


async def _settled(sent: list[int]) -> int:
    """Wait until the number does not grow any more: the kernel's buffers are full."""
    seen = -1
    while seen != sent[0]:
        seen = sent[0]
        await asyncio.sleep(0.05)
    return seen


async def test_a_stream_that_is_not_pulled_stops_the_server() -> None:
    """Whoever does not pull makes the server wait: memory is bounded by the socket's buffer."""
    sent = [0]
    piece = text("x" * 1000) * 16

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        writer.transport.set_write_buffer_limits(0)
        writer.write(head())
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(piece)
                await writer.drain()
                sent[0] += len(piece)

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        chat_source(f"http://127.0.0.1:{port}/v1", receive_bytes=16384) as source,
        contextlib.aclosing(source.stream(Ask(body=BODY))) as events,
    ):
        await anext(events)
        await anext(events)
        stopped = await _settled(sent)
        received = 0
        while received < 4 * stopped:
            event = await anext(events)
            assert isinstance(event, Delta)
            received += len(event.data)
        later = await _settled(sent)

    server.close()
    await server.wait_closed()
    assert stopped < 2 * 1024 * 1024
    # It went on as far as was read, and stopped again.
    assert 3 * stopped < later < received + 2 * 1024 * 1024


async def test_under_tls_a_resting_socket_stops_taking_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what is still encrypted: a thousand streams would hold 256 MiB beside the budget."""
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting())
    transport = TickTransport(pace=Unpaced(), receive_bytes=16384)
    script: list[Step] = [head(), b"one", *[b"x" * 4096] * 2000, HANG]
    async with raw_server(script, tls=serving()) as server:
        request = httpx2.Request("GET", server.url)
        response = await transport.handle_async_request(request)
        body: TickStream = response.extensions[TICKS]
        await body.read()
        sent = -1
        while sent != server.sent:
            sent = server.sent
            await asyncio.sleep(0.05)
        held = body._socket.get_read_buffer_size()  # type: ignore[union-attr]
        body.close()
    await transport.aclose()

    assert 0 < held < 128 * 1024


async def test_a_resting_socket_receives_nothing() -> None:
    """Between two reads the process is not woken: what comes stays in the kernel."""
    transport = TickTransport(pace=Unpaced(), receive_bytes=65536)
    release, sent = asyncio.Event(), asyncio.Event()
    script: list[Step] = [head(), b"one", release, b"two", sent.set, HANG]
    async with raw_server(script) as server:
        request = httpx2.Request("GET", server.url)
        response = await transport.handle_async_request(request)
        body: TickStream = response.extensions[TICKS]
        first = await body.read()
        release.set()
        await sent.wait()
        await asyncio.sleep(0)
        received = body._content.total_bytes
        second = await body.read(rested=True)
        body.close()
        await transport.aclose()

    assert (first, received, second) == (b"one", 3, b"two")


async def test_nobody_rests_before_the_first_text() -> None:
    """Time to the first token is the server's, not our tick: reading rests only after it."""
    pace = StepPace()
    script = [*chunked(b": wait\n\n", b"data: {}\n\n", text("He"), text("llo"), STOP, DONE)]
    async with (
        served(script, pace=pace) as (_, source),
        contextlib.aclosing(source.stream(Ask(body=BODY))) as events,
    ):
        await anext(events)
        first = await anext(events)
        waited_before = pace.waited
        rest = asyncio.ensure_future(anext(events))
        await pace.asked.wait()
        done = rest.done()
        pace.gate.set()
        second = await rest

    assert isinstance(first, Delta)
    assert isinstance(second, Delta)
    assert (first.data + second.data, waited_before, done) == (b"Hello", 0, False)


async def test_what_gathers_in_a_tick_is_one_delta() -> None:
    """While a socket rests the kernel gathers; then all of it is read at once."""
    pace = StepPace()
    resting, sent = asyncio.Event(), asyncio.Event()
    frames = [b"%x\r\n%s\r\n" % (len(text("a")), text("a"))] * 20
    script: list[Step] = [head(transfer_encoding="chunked"), frames[0], resting, *frames, sent.set]
    script.append(HANG)
    async with (
        served(script, pace=pace) as (_, source),
        contextlib.aclosing(source.stream(Ask(body=BODY))) as events,
    ):
        await anext(events)
        await anext(events)
        second = asyncio.ensure_future(anext(events))
        await pace.asked.wait()
        resting.set()
        await sent.wait()
        pace.gate.set()
        delta = await second

    assert delta == Delta(kind=Kind.TEXT, data=b"a" * 20, chunks=20)


async def test_a_fast_stream_does_not_rest() -> None:
    """A stream that fills its buffer between two reads is not throttled to a buffer a tick."""
    pace = StepPace()
    big = text("x" * 8000)
    pace.gate.set()
    script = chunked(big * 200, STOP, DONE)
    async with served(script, pace=pace, receive_bytes=16384) as (_, source):
        got = await get(source)

    assert len(got.said()) == 200 * 8000
    assert pace.waited < 20


async def test_connections_are_used_again() -> None:
    """An answer that was read to its end leaves its connection to the next request."""
    async with served(ANSWER) as (server, source):
        for _ in range(5):
            assert (await get(source)).outcome == "stop"

    assert (server.connections, len(server.requests)) == (1, 5)


async def test_a_refused_request_leaves_its_connection() -> None:
    """An error's text is read to its end as well."""
    refused: list[Step] = [head(429, content_length="2"), b"{}"]
    async with served(refused, ANSWER) as (server, source):
        await get(source)
        await get(source)

    assert server.connections == 1


async def test_an_unfinished_connection_is_never_used_again() -> None:
    """What still comes on a connection belongs to the old answer: the next one is asked anew."""
    unended = [*chunked(text("Hello"), STOP, DONE, end=False), HANG]
    async with served(unended, ANSWER) as (server, source):
        first, second = await get(source), await get(source)

    assert (first.said(), second.said()) == ("Hello", "Hello")
    assert server.connections == 2


async def test_the_receive_buffer_is_as_told() -> None:
    """A resting socket gathers no more than the budget reckons with."""
    async with served(ANSWER, receive_bytes=8192) as (_, source):
        made = source._transport._make_socket((socket.AF_INET, socket.SOCK_STREAM, 0))
        with made:
            size = made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    # Linux doubles it for its own bookkeeping.
    assert size in {8192, 16384}


@pytest.mark.parametrize("bypassed", [False, True])
async def test_a_proxy_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, bypassed: bool
) -> None:
    """Requests go through the proxy that the environment names, unless the host is excepted."""
    async with raw_server(ANSWER) as proxy, raw_server(ANSWER) as server:
        monkeypatch.setenv("http_proxy", f"http://me:pass%20word@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1" if bypassed else "")
        async with chat_source(server.url) as source:
            got = await get(source)

    assert got.said() == "Hello"
    assert (len(proxy.requests), len(server.requests)) == ((0, 1) if bypassed else (1, 0))
    if not bypassed:
        assert "Proxy-Authorization: Basic bWU6cGFzcyB3b3Jk" in proxy.requests[0].head


async def test_a_netrc_does_not_come_between(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An entry for the host in ~/.netrc neither replaces our key nor stops the request."""
    file = tmp_path_factory.mktemp("home") / "netrc"
    file.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(file))
    async with served(ANSWER) as (server, source):
        got = await get(source)

    assert got.said() == "Hello"
    assert "authorization: Bearer" in server.requests[0].head
