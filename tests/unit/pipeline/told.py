"""A source that yields, answer by answer, exactly the events it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from pipeline.ports import Ask, Delta, Event, Finish, Opened, Usage
from tokenspool.model import Kind

OPENED = Opened(headers={})
#: Wait until somebody ends it.
SILENCE = object()


def text(data: str, *, chunks: int = 1) -> Delta:
    """Make a delta of visible text."""
    return Delta(kind=Kind.TEXT, data=data.encode(), chunks=chunks)


def thought(data: str) -> Delta:
    """Make a delta of reasoning."""
    return Delta(kind=Kind.REASONING, data=data.encode())


def finish(reason: str = "stop", *, completion: int | None = None) -> Finish:
    """Make a proven end."""
    return Finish(reason=reason, usage=Usage(completion=completion) if completion else None)


@dataclass
class Told:
    """Fulfils `ports.Source`; what is raised is told as the exception itself."""

    answers: Sequence[Sequence[Event | BaseException | object]]
    requests: list[Ask] = field(default_factory=list)
    #: Set when an answer has come to its silence.
    silent: asyncio.Event = field(default_factory=asyncio.Event)

    async def stream(self, ask: Ask) -> AsyncGenerator[Event, None]:
        """See the port."""
        number = len(self.requests)
        self.requests.append(ask)
        for event in self.answers[number]:
            if event is SILENCE:
                self.silent.set()
                await asyncio.Event().wait()
            if isinstance(event, BaseException):
                raise event
            assert isinstance(event, Opened | Delta | Finish)
            yield event
            await asyncio.sleep(0)

    async def close(self) -> None:
        """See the port."""
