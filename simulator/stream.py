"""A streamed answer as events: the payloads, in order, with the faults that change what is said."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import msgspec

from simulator.answer import Answer
from simulator.chunks import ChunkWriter, Usage
from simulator.counts import Record
from simulator.faults import Faults
from simulator.steps import Send, Step, Steps
from simulator.trouble import Trouble, forever

#: Tokens that an answer without any text pretends to have thought, if its limit allows.
HIDDEN_TOKENS = 16
_HIGH_SURROGATE = re.compile(rb"\\ud[89ab][0-9a-f]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """One streamed answer."""

    answer: Answer
    faults: Faults
    writer: ChunkWriter
    record: Record
    wants_usage: bool
    #: What is said as reasoning.
    thoughts: Iterator[bytes]

    def steps(self) -> Steps:
        """Give the payloads of all events, and the waits between; where it ends, the body ends."""
        yield from self._opening()
        broken = yield from self._content()
        if broken:
            self.record.ended = broken
        else:
            yield from self._ending()

    def _opening(self) -> Steps:
        faults, writer = self.faults, self.writer
        if faults.empty_choices:
            yield Send(
                writer.choices(b"[]", extra=b',"prompt_filter_results":[{"prompt_index":0}]')
            )
        yield Send(writer.delta(b'"role":"assistant","content":""'))
        if faults.huge_event:
            yield Send(writer.delta(b'"content":"","padding":"%b"' % (b"x" * faults.huge_event)))
        for piece in itertools.islice(self.thoughts, faults.reasoning):
            yield self._thought(writer.text(piece))
        for piece in self.answer.echo:
            yield Send(writer.delta(b'"content":' + writer.text(piece)))

    def _thought(self, text: bytes) -> bytes:
        field = self.faults.reasoning_field
        names = ("reasoning", "reasoning_content") if field == "both" else (field,)
        members = b",".join(b'"%b":%b' % (name.encode(), text) for name in names)
        empty = b'"content":null,"tool_calls":[],' if self.faults.null_content else b""
        return self.writer.delta(empty + members)

    def _content(self) -> Generator[Step, None, str]:
        """Say the tokens; returns how the stream was broken off, or nothing."""
        faults = self.faults
        if faults.tool_calls:
            yield Send(self.writer.tool_start())
        trouble = Trouble(faults, self.writer)
        places = trouble.places
        is_odd = faults.usage_each or faults.usage_zeros or faults.null_content
        special = is_odd or faults.split_surrogates or faults.tool_calls
        head, tail = self.writer.around("refusal" if faults.refusal else "content")
        text = self.writer.text
        number = -1
        for number, piece in enumerate(pieces_of(self.answer, faults)):
            if places and number in places:
                broken = yield from trouble.at(number)
                if broken:
                    return broken
            if special:
                yield from self._special(piece, number)
            else:
                yield head + text(piece) + tail
        if number + 1 in places:
            return (yield from trouble.at(number + 1))
        return ""

    def _special(self, piece: bytes, number: int) -> Steps:
        """Say one token in an odd way."""
        faults, writer = self.faults, self.writer
        if faults.tool_calls:
            yield writer.tool_arguments(_argument(piece, number, last=faults.tool_calls - 1))
            return
        texts = _halves(piece) if faults.split_surrogates else (writer.text(piece),)
        empty = b'"tool_calls":[],' if faults.null_content else b""
        usage = b""
        if faults.usage_each:
            usage = self._usage().json()
        elif faults.usage_zeros:
            usage = Usage(prompt=0, completion=0).json()
        *before, last = (empty + b'"content":' + text for text in texts)
        yield from (Send(writer.delta(text, usage=usage)) for text in before)
        yield writer.delta(last, usage=usage)

    def _ending(self) -> Steps:
        faults, writer = self.faults, self.writer
        self.record.ended = reason = finish_reason(self.answer, faults)
        if faults.empty_length:
            yield Send(writer.delta(b'"content":""'), hidden_tokens(self.answer))
        if not faults.no_finish:
            said = None if faults.null_finish else reason
            for _ in range(1 + faults.duplicate_finish):
                yield Send(writer.delta(b"", finish=said), 0, not faults.unterminated)
        if faults.unterminated:
            return
        if self.wants_usage or faults.usage_each:
            for _ in range(1 + faults.duplicate_finish):
                yield Send(writer.usage(self._usage()))
        if faults.no_done:
            yield from forever()
        if not faults.no_done_end:
            yield Send(b" [DONE]" if faults.done_spaces else b"[DONE]")
        if faults.after_done:
            yield Send(writer.delta(b'"content":" said after the end"'))
            yield Send(writer.delta(b"", finish="length"))

    def _usage(self) -> Usage:
        return Usage(prompt=self.record.prompt_tokens, completion=self.record.tokens)


def finish_reason(answer: Answer, faults: Faults) -> str:
    """Give the reason that the answer's end is given."""
    if faults.finish is not None:
        return faults.finish
    if faults.empty_length:
        return "length"
    if faults.tool_calls:
        return "tool_calls"
    return "stop" if faults.refusal else answer.finish


def hidden_tokens(answer: Answer) -> int:
    """Give how many tokens an answer without text pretends to have thought."""
    return min(HIDDEN_TOKENS, answer.count)


def pieces_of(answer: Answer, faults: Faults) -> Iterator[bytes]:
    """Give the pieces that are said: refusals and tool calls have fewer, some answers none."""
    if faults.empty_length:
        return iter(())
    return itertools.islice(answer.pieces, faults.refusal or faults.tool_calls or None)


def _argument(piece: bytes, number: int, *, last: int) -> str:
    """Give a token's part of `{"text": "…"}`."""
    inside = msgspec.json.encode(piece.decode())[1:-1].decode()
    return ('{"text": "' if number == 0 else "") + inside + ('"}' if number == last else "")


def _halves(piece: bytes) -> tuple[bytes, ...]:
    """Write a token's text as two JSON strings, parted inside its first surrogate pair."""
    text = json.dumps(piece.decode()).encode()
    found = _HIGH_SURROGATE.search(text)
    if not found:
        return (text,)
    return text[: found.end()] + b'"', b'"' + text[found.end() :]
