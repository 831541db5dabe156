"""What the engine relies on of every source, the fake that ships with it included."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from pipeline.ports import Ask, AskOn, Delta, Finish, GoOnFrom, Opened, Source, Usage
from pipeline.sources.scripted import Cut, Script, ScriptedSource
from tests.unit.sources.asking import BODY, Got, chat_source, get
from tests.unit.sources.raw import (
    DONE,
    HANG,
    RESET,
    STOP,
    Step,
    chunk,
    chunked,
    event,
    raw_server,
    refusal,
    text,
)
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Kind, Prefill

TOKENS = ["Once", " upon", " a", " é", "😀", "."]
WHOLE = "".join(TOKENS)


@dataclass(frozen=True, slots=True)
class Scene:
    """The same event at every source: how many tokens come, and what happens then."""

    tokens: int
    #: None: it ends well; "stall": nothing more comes; else it breaks so.
    then: ErrorKind | str | None = None


Make = Callable[[Scene], Awaitable[Source]]


def _scripted(scene: Scene) -> ScriptedSource:
    cuts: list[Cut | None] = []
    if scene.then == "length":
        return ScriptedSource(Script(tokens=lambda _: TOKENS, cap=scene.tokens))
    if scene.then is not None:
        kind = ErrorKind.NETWORK if scene.then == "stall" else ErrorKind(scene.then)
        error = None if scene.then == "stall" else StreamError(kind, "broken")
        after = -1 if scene.then is ErrorKind.REQUEST else scene.tokens
        cuts = [Cut(after=after, error=error)]
    return ScriptedSource(Script(tokens=lambda _: TOKENS, cuts=cuts))


def _wire(scene: Scene) -> list[Step]:
    said = [text(token) for token in TOKENS[: scene.tokens]]
    usage = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": scene.tokens}})
    if scene.then is None:
        return chunked(*said, STOP, usage, DONE)
    if scene.then == "length":
        return chunked(*said, event(chunk(finish="length")), usage, DONE)
    if scene.then is ErrorKind.REQUEST:
        return refusal(400, {"error": {"message": "broken"}})
    return [*chunked(*said, end=False), HANG if scene.then == "stall" else RESET]


@pytest.fixture(params=["scripted", "chat"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Make the adapter under test play a scene."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(scene: Scene) -> Source:
            if request.param == "scripted":
                return _scripted(scene)
            server = await stack.enter_async_context(raw_server(_wire(scene)))
            return await stack.enter_async_context(chat_source(server.url))

        yield start


async def _all(source: Source, ask: Ask | None = None) -> Got:
    return await get(source, ask)


async def test_a_whole_answer_is_opened_said_and_finished(make: Make) -> None:
    """First `Opened`, then the text in whole characters, last one `Finish` with the usage."""
    got = await _all(await make(Scene(len(TOKENS))))

    assert got.opened is not None
    assert got.said() == WHOLE
    assert got.finish is not None
    assert (got.finish.reason, got.error) == ("stop", None)
    assert got.finish.usage is not None
    assert got.finish.usage.completion == len(TOKENS)


async def test_every_delta_is_whole_characters_and_counted(make: Make) -> None:
    """A delta can be committed as it is; its chunks are the tokens it stands for."""
    got = await _all(await make(Scene(len(TOKENS))))

    assert all(delta.data.decode() for delta in got.deltas)
    assert {delta.kind for delta in got.deltas} == {Kind.TEXT}
    assert sum(delta.chunks for delta in got.deltas) == len(TOKENS)


async def test_the_limit_of_a_provider_is_a_finish(make: Make) -> None:
    """`length` is a proven end: what it means is for the engine to say."""
    got = await _all(await make(Scene(3, "length")))

    assert (got.said(), got.finish) == (
        "".join(TOKENS[:3]),
        Finish(reason="length", usage=got.finish.usage if got.finish else Usage()),
    )


async def test_what_came_before_a_break_is_yielded_first(make: Make) -> None:
    """A cut raises, and only after every delta that had arrived."""
    got = await _all(await make(Scene(3, ErrorKind.NETWORK)))

    assert (got.said(), got.finish) == ("".join(TOKENS[:3]), None)
    assert got.error is not None
    assert got.error.kind is ErrorKind.NETWORK


async def test_a_refused_request_is_never_opened(make: Make) -> None:
    """Who was refused was not answered: no `Opened` comes before the error."""
    got = await _all(await make(Scene(0, ErrorKind.REQUEST)))

    assert (got.opened, got.deltas) == (None, [])
    assert got.error is not None
    assert got.error.kind is ErrorKind.REQUEST


async def test_a_silent_stream_can_be_left(make: Make) -> None:
    """Closing the generator while it is silent ends the stream, at once and quietly."""
    source = await make(Scene(2, "stall"))

    seen = []
    async with contextlib.aclosing(source.stream(Ask(body=BODY))) as events:
        async for item in events:
            seen.append(item)
            if b"".join(d.data for d in seen if isinstance(d, Delta)) == b"Once upon":
                break

    assert isinstance(seen[0], Opened)


async def test_a_source_answers_again(make: Make) -> None:
    """One source serves many requests, one after the other and side by side."""
    source = await make(Scene(len(TOKENS)))

    first, second = await _all(source), await _all(source)

    assert (first.said(), second.said()) == (WHOLE, WHOLE)


@pytest.mark.parametrize(
    "turn",
    [
        *(GoOnFrom(text="Once", flag=flag) for flag in Prefill),
        AskOn(text="Once upon", tail="upon"),
    ],
    ids=str,
)
async def test_every_turn_is_answered_and_the_body_left_alone(
    make: Make, turn: GoOnFrom | AskOn
) -> None:
    """A source takes every turn, and never changes the user's body."""
    body = {"model": "m-1", "messages": [{"role": "user", "content": "Say it."}]}

    got = await _all(await make(Scene(len(TOKENS))), Ask(body=body, turn=turn, limit=50))

    assert got.finish is not None
    assert body == {"model": "m-1", "messages": [{"role": "user", "content": "Say it."}]}


async def test_closing_twice_is_closing_once(make: Make) -> None:
    """A source may be closed by whoever is last."""
    source = await make(Scene(1))

    await source.close()
    await source.close()
