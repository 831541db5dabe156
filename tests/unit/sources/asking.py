"""Asking a source, and what came of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from pipeline.ports import Ask, Delta, Finish, Opened, Pace, Source
from pipeline.sources.chat import ChatSource
from pipeline.sources.settings import SourceSettings
from pipeline.sources.ticks import Unpaced
from tests.unit.sources.raw import RawServer, Step, raw_server
from tokenspool.errors import StreamError
from tokenspool.model import Endpoint, Kind

KEY = "sk-very-secret-0123456789"
MODEL = "m-1"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Say it."}]}
#: Short, so that a test of waiting does not wait.
SETTINGS = SourceSettings(drain_s=0.2, connect_timeout_s=5.0)


@dataclass(slots=True)
class Got:
    """All that a stream yielded, and how it ended."""

    opened: Opened | None = None
    deltas: list[Delta] = field(default_factory=list)
    finish: Finish | None = None
    error: StreamError | None = None

    def said(self, kind: Kind = Kind.TEXT) -> str:
        """Give the whole text of a kind."""
        return b"".join(d.data for d in self.deltas if d.kind is kind).decode()

    @property
    def outcome(self) -> str:
        """The finish reason, or the kind of the error."""
        if self.finish is not None:
            return self.finish.reason
        assert self.error is not None
        return f"! {self.error.kind.value}"


@contextlib.asynccontextmanager
async def chat_source(
    url: str, *, pace: Pace | None = None, **settings: object
) -> AsyncIterator[ChatSource]:
    """Make a source and close it."""
    source = ChatSource(
        Endpoint(url=url, model=MODEL),
        api_key=KEY,
        pace=pace or Unpaced(),
        settings=replace(SETTINGS, **settings),  # type: ignore[arg-type]
    )
    try:
        yield source
    finally:
        await source.close()


@contextlib.asynccontextmanager
async def served(
    *scripts: Sequence[Step], pace: Pace | None = None, **settings: object
) -> AsyncIterator[tuple[RawServer, ChatSource]]:
    """Serve scripts and make a source of the server."""
    async with (
        raw_server(*scripts) as server,
        chat_source(server.url, pace=pace, **settings) as made,
    ):
        yield server, made


async def get(source: Source, ask: Ask | None = None) -> Got:
    """Ask and read to the end."""
    got = Got()
    try:
        async with contextlib.aclosing(source.stream(ask or Ask(body=BODY))) as events:
            async for event in events:
                if isinstance(event, Opened):
                    assert got.opened is None
                    got.opened = event
                elif isinstance(event, Delta):
                    assert got.finish is None
                    got.deltas.append(event)
                else:
                    got.finish = event
    except StreamError as error:
        got.error = error
    return got


async def get_from(url: str, **settings: object) -> Got:
    """Make a source, ask once, close it."""
    async with chat_source(url, **settings) as source:  # type: ignore[arg-type]
        return await get(source)
