"""Deciding what is answered: which text, from where on, how much of it, and how it ends."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from simulator.conversation import ChatRequest, Conversation
from simulator.faults import Faults
from simulator.mixing import fingerprint
from simulator.place import Place, Text
from simulator.refusal import Refusal
from simulator.sampled import Sampled
from simulator.settings import SimSettings
from simulator.text import Document, Shape

#: A prefix is echoed in events of about this size.
_ECHO_BYTES = 4096
_SPACE = b" \t\r\n\v\f"
_WORD = re.compile(rb"\s*\S+|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request may ask of the simulator besides its messages."""

    tokens: int
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said in answer to one request."""

    #: One per token, so many as `count` says; can be read once.
    pieces: Iterator[bytes]
    count: int
    finish: Literal["stop", "length"]
    prompt_tokens: int
    #: Bytes of the answer's beginning that it goes on behind; None: it begins at the beginning.
    resumed_at: int | None
    #: What is said again first, without being generated.
    echo: tuple[bytes, ...] = ()


def plan(
    request: ChatRequest,
    conversation: Conversation,
    settings: SimSettings,
    *,
    faults: Faults,
    wish: Wish,
    salt: int,
) -> Answer:
    """Decide an answer. Raises Refusal where the prefix is refused."""
    key = conversation.key(request.model)
    text = text_of(key, settings, shape=wish.shape, salt=salt)
    said = beginning(request, conversation, settings, faults=faults)
    prompt_tokens = request.prompt_tokens
    place = Place(rest=b"", token=0)
    spoken: list[bytes] = []
    if said:
        text, place = _find(text, said, key, settings, wish=wish, salt=salt)
        if conversation.kind == "ask":
            spoken = [faults.preamble.encode()] if faults.preamble else []
            spoken += _WORD.findall(_last_characters(said, settings.overlap))
    if place.rest:
        spoken.append(place.rest)
    whole = max(0, wish.tokens - place.token) + len(spoken)
    if place.token > wish.tokens:
        whole, spoken = 0, []
    limit = whole if request.limit is None else request.limit
    count = min(whole, limit)
    return Answer(
        pieces=itertools.islice(itertools.chain(spoken, text.tokens(place.token)), count),
        count=count,
        finish="length" if count < whole else "stop",
        prompt_tokens=prompt_tokens,
        resumed_at=len(said) if said else None,
        echo=_echo(said) if said and _echoes(conversation, settings) else (),
    )


def text_of(key: int, settings: SimSettings, *, shape: Shape, salt: int) -> Text:
    """Give the text of a conversation; with salt 0 the one that a first, whole answer has."""
    if settings.sampling:
        return Sampled(settings.seed, key, salt=salt)
    return Document(settings.seed, key, shape=shape)


def beginning(
    request: ChatRequest, conversation: Conversation, settings: SimSettings, *, faults: Faults
) -> bytes:
    """Give the text that the answer is to go on behind; empty if it begins anew. Raises Refusal."""
    if conversation.last is not None:
        _check_prefix(request, conversation, settings)
        if not _is_flagged(request, conversation, settings):
            return b""
    if faults.prefix_ignored or (conversation.kind == "prefix" and settings.prefix == "ignore"):
        return b""
    said = conversation.said.encode()
    if conversation.kind == "prefix" and settings.prefix_space == "trim":
        said = said.rstrip(_SPACE)
    return said


def _check_prefix(request: ChatRequest, conversation: Conversation, settings: SimSettings) -> None:
    if settings.prefix == "refuse":
        raise Refusal(
            400,
            "This model does not continue an assistant message: the conversation must end with a "
            "user message.",
            param="messages",
        )
    knows_flag = settings.prefix_flag in {"any", "continue_final_message"}
    if knows_flag and request.continue_final_message and request.add_generation_prompt is not False:
        raise Refusal(
            400, "continue_final_message needs add_generation_prompt to be false: not both"
        )
    said = conversation.said
    if settings.prefix_space == "refuse" and said != said.rstrip():
        raise Refusal(
            400, "the final assistant message cannot end with trailing whitespace", param="messages"
        )


def _is_flagged(request: ChatRequest, conversation: Conversation, settings: SimSettings) -> bool:
    last = conversation.last
    match settings.prefix_flag:
        case "continue_final_message":
            return bool(request.continue_final_message)
        case "prefix":
            return last is not None and bool(last.prefix)
        case "partial":
            return last is not None and bool(last.partial)
        case "any" | "none":
            return True


def _echoes(conversation: Conversation, settings: SimSettings) -> bool:
    return conversation.kind == "prefix" and settings.prefix == "echo"


def _find(
    text: Text, said: bytes, key: int, settings: SimSettings, *, wish: Wish, salt: int
) -> tuple[Text, Place]:
    """Find where to go on; behind words of somebody else a text of its own begins."""
    if place := text.place(said):
        return text, place
    own = fingerprint((key.to_bytes(8, "big"), said))
    return text_of(own, settings, shape=wish.shape, salt=salt), Place(rest=b"", token=0)


def _last_characters(said: bytes, size: int) -> bytes:
    """Give at most the last `size` bytes, beginning with a whole character."""
    at = max(0, len(said) - size)
    while at < len(said) and said[at] & 0xC0 == 0x80:  # noqa: PLR2004 - the inside of a UTF-8 character
        at += 1
    return said[at:]


def _echo(said: bytes) -> tuple[bytes, ...]:
    text = said.decode()
    step = _ECHO_BYTES // 4
    return tuple(text[at : at + step].encode() for at in range(0, len(text), step))
