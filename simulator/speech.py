"""Everything about one answer put together: head, body, pace and faults, streamed or whole."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from simulator.answer import Answer
from simulator.chunks import ChunkWriter, Usage, tool_call, whole_answer
from simulator.conversation import ChatRequest
from simulator.counts import Record
from simulator.faults import Faults
from simulator.flow import Delivery
from simulator.framing import framed, shaped
from simulator.steps import Cut, Raw, Send, Step, Steps, Wait
from simulator.stream import Talk, finish_reason, hidden_tokens, pieces_of
from simulator.text import Document
from simulator.trouble import Trouble
from simulator.wire import head

#: The document that reasoning is taken from; its key is that of no conversation.
_THOUGHTS = 0
_DETAIL = b'{"detail":"the simulator was told to answer so"}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """One answer, ready to be delivered."""

    chat: ChatRequest
    answer: Answer
    faults: Faults
    record: Record
    seed: int
    #: What the head says of limits.
    limits: Mapping[str, str]

    def delivery(self) -> Delivery:
        """Give the steps of the response."""
        faults = self.faults
        streams = bool(self.chat.stream) and not faults.json_answer
        return Delivery(
            steps=self._response(self._stream() if streams else self._whole()),
            record=self.record,
            chunked=streams,
        )

    def _response(self, body: Steps) -> Steps:
        faults = self.faults
        if faults.slow_start_s:
            yield Wait(faults.slow_start_s)
        if faults.no_answer:
            yield Cut(faults.cut)
        yield from body

    def _fields(self, content_type: str) -> dict[str, str]:
        number = f"req-{self.record.number:012d}"
        return {"content-type": content_type, "x-request-id": number, **self.limits}

    def _stream(self) -> Steps:
        fields = self._fields("text/event-stream; charset=utf-8")
        fields |= {"cache-control": "no-cache", "transfer-encoding": "chunked"}
        yield Raw(head(200, fields))
        if self.faults.empty_body:
            self.record.ended = "end"
        elif self.faults.bare_detail:
            self.record.ended = "error"
            yield from shaped(_once(Send(_DETAIL)), self.faults)
        else:
            yield from shaped(framed(self._talk().steps(), self.faults), self.faults)

    def _talk(self) -> Talk:
        wants_usage = self.chat.wants_usage
        return Talk(
            answer=self.answer,
            faults=self.faults,
            writer=ChunkWriter(
                number=self.record.number,
                model=self.chat.model,
                usage_null=wants_usage,
                ascii_only=self.faults.ascii,
            ),
            record=self.record,
            wants_usage=wants_usage,
            thoughts=Document(self.seed, _THOUGHTS).tokens(),
        )

    def _whole(self) -> Steps:
        """Make the tokens at their pace, then send them all at once."""
        said: list[bytes] = []
        broken = yield from self._make(said)
        faults, record = self.faults, self.record
        if broken:
            # There is no way to say half of a JSON document properly.
            yield Cut(faults.cut)
        record.ended = reason = finish_reason(self.answer, faults)
        if faults.empty_length:
            yield Send(b"", hidden_tokens(self.answer))
        body = whole_answer(
            number=record.number,
            model=self.chat.model,
            message=self._message(b"".join(said).decode()),
            finish=None if faults.no_finish or faults.null_finish else reason,
            usage=Usage(prompt=record.prompt_tokens, completion=record.tokens),
        )
        fields = self._fields("application/json") | {"content-length": str(len(body))}
        yield Raw(head(200, fields))
        yield from shaped(_once(Send(body)), faults)

    def _make(self, said: list[bytes]) -> Generator[Step, None, str]:
        trouble = Trouble(self.faults, None)
        said += self.answer.echo
        yield Send(b"", self.faults.reasoning)
        number = -1
        for number, piece in enumerate(pieces_of(self.answer, self.faults)):
            if number in trouble.places and (broken := (yield from trouble.at(number))):
                return broken
            said.append(piece)
            yield Send(b"", 1)
        return (yield from trouble.at(number + 1))

    def _message(self, text: str) -> dict[str, object]:
        faults = self.faults
        message: dict[str, object] = {"content": text}
        if faults.refusal:
            message = {"content": None, "refusal": text}
        if faults.tool_calls:
            call = tool_call('{"text": "written"}', number=self.record.number)
            message = {"content": None, "tool_calls": [call]}
        if faults.reasoning:
            thoughts = itertools.islice(Document(self.seed, _THOUGHTS).tokens(), faults.reasoning)
            message["reasoning_content"] = b"".join(thoughts).decode()
        return message


def _once(step: Step) -> Steps:
    yield step
