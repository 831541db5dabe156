"""A source that says what it is told and then fails as it is told: the fake of the port.

It can go on behind a prefix exactly, answer anew, or sample: then what follows a seam differs each
time, as from a model at a temperature. Ships with the package, so that users can test with it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

from pipeline.ports import Ask, AskOn, Delta, Event, Finish, Fresh, GoOnFrom, Opened, Usage
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Kind, Prefill


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """End the answer after so many tokens, with an error; None is a stall until cancelled."""

    after: int
    error: StreamError | None


@dataclass(slots=True, kw_only=True)
class Script:
    """What a scripted endpoint does."""

    #: The document's tokens, by the sample that makes them; sample 0 is the first answer's.
    tokens: Callable[[int], list[str]]
    honours: frozenset[Prefill] = frozenset(Prefill)
    samples: bool = False
    #: One per request, in order; afterwards answers end well.
    cuts: list[Cut | None] = field(default_factory=list)
    #: Tokens per answer at most, as a server's own limit.
    cap: int | None = None
    repeats: int = 0


class ScriptedSource:
    """Fulfils `pipeline.ports.Source` from a script; counts what a server would count."""

    def __init__(self, script: Script) -> None:
        """Take the script; several sources may share one."""
        self._script = script
        self.requests: list[Ask] = []
        self.generated = 0
        self.closed = False

    async def stream(self, ask: Ask) -> AsyncGenerator[Event, None]:
        """See the port."""
        script = self._script
        number = len(self.requests)
        self.requests.append(ask)
        cut = script.cuts[number] if number < len(script.cuts) else None
        if cut is not None and cut.after < 0 and cut.error is not None:
            raise cut.error
        yield Opened(request_id=f"request-{number}", headers={})
        limit = min(x for x in (ask.limit, script.cap, 10**9) if x is not None)
        said = 0
        for token in self._answer(ask, number):
            if cut is not None and said == cut.after:
                if cut.error is None:
                    await asyncio.Event().wait()
                else:
                    raise cut.error
            if said == limit:
                yield Finish(reason="length", usage=Usage(completion=said))
                return
            said += 1
            self.generated += 1
            yield Delta(kind=Kind.TEXT, data=token.encode())
            await asyncio.sleep(0)
        if cut is not None and cut.error is not None:
            raise cut.error
        yield Finish(reason="stop", usage=Usage(completion=said))

    async def close(self) -> None:
        """See the port."""
        self.closed = True

    def _answer(self, ask: Ask, number: int) -> Iterator[str]:
        script = self._script
        sample = number if script.samples else 0
        tokens = script.tokens(sample)
        match ask.turn:
            case Fresh():
                yield from tokens
            case GoOnFrom(text=prefix, flag=flag) if flag in script.honours:
                yield from _behind(tokens, len(prefix))
            case GoOnFrom():
                yield from tokens
            case AskOn(text=text):
                yield from _behind(tokens, max(0, len(text) - script.repeats))


def _behind(tokens: list[str], characters: int) -> Iterator[str]:
    """Yield what follows after so many characters; the first token may be the rest of one."""
    at = 0
    for token in tokens:
        at += len(token)
        if at > characters:
            yield token[max(0, len(token) - (at - characters)) :]


def cut_after(tokens: int, kind: ErrorKind = ErrorKind.NETWORK) -> Cut:
    """Make a cut with an error of a kind."""
    return Cut(after=tokens, error=StreamError(kind, f"scripted {kind}"))
