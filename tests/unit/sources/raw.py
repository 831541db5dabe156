"""A server that sends given bytes in given pieces, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import msgspec

#: Steps of a script beside bytes to send, seconds, events to wait for and functions to call.
RESET, HANG, CLOSE = "reset", "hang", "close"
Step = bytes | str | float | asyncio.Event | Callable[[], None]


@dataclass(slots=True)
class Request:
    """What was asked."""

    head: str
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        """The body as an object."""
        return msgspec.json.decode(self.body, type=dict[str, object])

    @property
    def path(self) -> str:
        """The path with its query."""
        return self.head.split(" ")[1]


@dataclass(slots=True)
class RawServer:
    """Answers the n-th request with the n-th script, the last one again and again."""

    scripts: list[Sequence[Step]]
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    #: Connections that the client closed while a script hung.
    hung_up: int = 0
    #: Set when one was.
    left: asyncio.Event = field(default_factory=asyncio.Event)
    #: Bytes that the kernel took from us.
    sent: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, request after request."""
        self.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                number = min(len(self.requests), len(self.scripts) - 1)
                self.requests.append(request)
                if not await self._play(self.scripts[number], reader, writer):
                    break
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _play(
        self, script: Sequence[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Play a script; give whether the connection stays."""
        for step in script:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif callable(step):
                step()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step == HANG:
                # Nothing more is asked on this connection: this returns when it is closed.
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                self.hung_up += 1
                self.left.set()
                return False
            elif step == RESET:
                made = writer.get_extra_info("socket")
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            elif step == CLOSE:
                return False
            elif isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                self.sent += len(step)
                # Enough rounds of the loop for a reader in it to see this piece alone.
                for _ in range(6):
                    await asyncio.sleep(0)
        return True


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    return Request(head, await reader.readexactly(int(length[1]) if length else 0))


@contextlib.asynccontextmanager
async def raw_server(
    *scripts: Sequence[Step], tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Serve scripts on a free port."""
    server = RawServer(list(scripts), scheme="http" if tls is None else "https")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        # Cancelled is how it ends with the test: no error to be told of.
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve(reader, writer)
        tasks.discard(task)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening.wait_closed()


SSE = "text/event-stream"


def head(status: int = 200, kind: str = SSE, **headers: str) -> bytes:
    """Make a response's head; the body ends with the connection unless headers say otherwise."""
    lines = [f"HTTP/1.1 {status} Said", f"content-type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if "content_length" not in headers and "transfer_encoding" not in headers:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


def answer(*pieces: bytes, status: int = 200, kind: str = SSE) -> list[Step]:
    """Answer with pieces, and close."""
    return [head(status, kind), *pieces, CLOSE]


def chunked(*pieces: bytes, end: bool = True) -> list[Step]:
    """Answer with pieces, each a chunk of HTTP's; the connection stays."""
    framed: list[Step] = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return [head(transfer_encoding="chunked"), *framed, *([b"0\r\n\r\n"] if end else [])]


def refusal(status: int, body: object, **headers: str) -> list[Step]:
    """Answer with an error; the connection stays."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return [head(status, "application/json", content_length=str(len(data)), **headers), data]


def event(data: object) -> bytes:
    """Make an event of anything."""
    payload = data if isinstance(data, bytes) else msgspec.json.encode(data)
    return b"data: " + payload + b"\n\n"


def chunk(
    content: str | None = None, finish: str | None = None, **delta: object
) -> dict[str, object]:
    """Make a chunk as it is usual."""
    said = delta if content is None else {"content": content, **delta}
    choice = {"index": 0, "delta": said, "logprobs": None, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [choice], "usage": None}


def text(content: str) -> bytes:
    """Make the event of a piece of text."""
    return event(chunk(content))


STOP = event(chunk(finish="stop"))
DONE = b"data: [DONE]\n\n"
