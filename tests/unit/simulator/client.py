"""A client that shows every byte of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

#: An answer that does not end by then never will.
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """A response, to the byte."""

    status: int
    headers: dict[str, str]
    body: bytes
    #: The pieces of a chunked body, as they were cut.
    pieces: list[bytes] = field(default_factory=list)
    #: `complete`, or how the connection ended before that: `fin` or `rst`.
    ended: str = "complete"

    @property
    def events(self) -> list[Any]:
        """The JSON of all events that are JSON."""
        lines = self.body.decode().split("\n\n")
        data = (line.removeprefix("data: ") for line in lines if line.startswith("data: "))
        return [json.loads(text) for text in data if text.strip() != "[DONE]"]

    @property
    def text(self) -> str:
        """What was said."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            message: str = json.loads(self.body)["choices"][0]["message"]["content"]
            return message
        deltas = (event["choices"][0]["delta"] for event in self.events if event.get("choices"))
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def finish(self) -> list[str]:
        """All finish reasons that were given."""
        reasons = (
            event["choices"][0]["finish_reason"] for event in self.events if event.get("choices")
        )
        return [reason for reason in reasons if reason]

    @property
    def error(self) -> dict[str, Any]:
        """The error object."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send a request."""
        fields = {"host": "sim", "content-length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)

    async def receive(self) -> Got:
        """Read one response to its end, or to the connection's."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return Got(status=0, headers={}, body=b"", ended="fin")
        except ConnectionResetError:
            return Got(status=0, headers={}, body=b"", ended="rst")
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        pieces: list[bytes] = []
        ended = "complete"
        try:
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readline(), 16):
                    pieces.append(await self.reader.readexactly(size))
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
            else:
                pieces.append(await self.reader.readexactly(int(headers["content-length"])))
        except asyncio.IncompleteReadError as error:
            pieces.append(error.partial)
            ended = "fin"
        except ValueError:
            ended = "fin"
        except ConnectionResetError:
            ended = "rst"
        status = int(first.split()[1])
        return Got(
            status=status, headers=headers, body=b"".join(pieces), pieces=pieces, ended=ended
        )


class Client:
    """Speaks to one simulator."""

    def __init__(self, port: int) -> None:
        self.port = port

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Wire]:
        """Open a connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Wire(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Got:
        """Send one request on a connection of its own."""
        async with asyncio.timeout(PATIENCE_S), self.connect() as wire:
            wire.send(method, path, body, **headers)
            return await wire.receive()

    async def chat(self, *said: str, fault: str = "", headers: Any = None, **fields: Any) -> Got:
        """Ask for an answer; `said` are turns, the user's first. Streams, unless told otherwise."""
        told = dict(headers or {})
        if fault:
            told["x_sim_fault"] = fault
        return await self.ask("POST", "/v1/chat/completions", body_of(*said, **fields), **told)

    async def sim(self, what: str, body: bytes | None = None) -> Any:
        """Ask the simulator about itself."""
        got = await self.ask("GET" if body is None else "POST", f"/sim/{what}", body or b"")
        assert got.status == 200, got.body
        return got.body.decode() if what == "text" else json.loads(got.body)

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the counts are as they should be; each look is a round trip."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                stats: dict[str, Any] = await self.sim("stats")
                if holds(stats):
                    return stats


def body_of(*said: str, **fields: Any) -> bytes:
    """Give a chat request in which user and assistant take turns."""
    turns = [
        {"role": "assistant" if number % 2 else "user", "content": text}
        for number, text in enumerate(said or ("Say something.",))
    ]
    return json.dumps({"model": "m", "messages": turns, "stream": True, **fields}).encode()


def contents(got: Got) -> int:
    """Count the events that say something."""
    deltas = [event["choices"][0]["delta"] for event in got.events if event.get("choices")]
    return sum(bool(delta.get("content")) for delta in deltas)


def is_done(got: Got) -> bool:
    """Tell whether the last thing said is [DONE]."""
    return got.body.endswith(b"data: [DONE]\n\n")


def plain_bytes(body: bytes) -> bytes:
    """Give a body with what differs between two equal answers crossed out."""
    return re.sub(rb'chatcmpl-\d*|"created":\d*', lambda found: b"-" * len(found[0]), body)
