"""The endpoint for chat completions: from a request to the steps of its answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import msgspec

from simulator.answer import Wish, plan, text_of
from simulator.conversation import ChatRequest, Conversation, read_request, understand
from simulator.counts import QUESTION_CHARS, Counts, Record
from simulator.faults import NONE, Faults, merge, parse_faults
from simulator.flow import Delivery
from simulator.models import check_model
from simulator.quota import Quota
from simulator.refusal import Refusal
from simulator.rules import Chooser, Mix
from simulator.settings import SimSettings
from simulator.speech import Speech
from simulator.text import Shape
from simulator.wire import Request

#: How many questions are remembered for having been answered once, in sampling mode.
_REMEMBERED = 200_000
_SHAPES: tuple[Shape, ...] = ("prose", "refrain")


class Chat:
    """Answers chat requests and counts them."""

    def __init__(self, settings: SimSettings, counts: Counts) -> None:
        self._settings = settings
        self._counts = counts
        self._chooser = Chooser(settings.rules)
        self._mix = Mix(rate=settings.fault_rate, seed=settings.seed, kinds=settings.fault_mix)
        self._quota = Quota(settings.rpm)
        self._answered: dict[int, None] = {}

    def reset(self) -> None:
        """Forget all requests: the next one is the first."""
        self._chooser = Chooser(self._settings.rules)
        self._quota = Quota(self._settings.rpm)
        self._answered.clear()

    def text(self, request: Request) -> Iterator[bytes]:
        """Give the whole, undisturbed text that a request's answer has. Raises Refusal."""
        chat = read_request(request.body)
        wish = _wish(chat, request.headers, self._settings)
        key = understand(chat.messages).key(chat.model)
        text = text_of(key, self._settings, shape=wish.shape, salt=0)
        return itertools.islice(text.tokens(), wish.tokens)

    def answer(self, request: Request) -> Delivery:
        """Give the answer to a request. Raises Refusal."""
        self._counts.requests += 1
        number = self._counts.requests
        try:
            chat = read_request(request.body)
            check_model(chat.model, self._settings)
            conversation = understand(chat.messages)
            faults = self._choose(chat, request, conversation)
        except Refusal as refusal:
            self._counts.answered(refusal.status)
            raise
        record = _record(chat, conversation, faults, number=number)
        self._counts.remember(record)
        try:
            delivery = self._deliver(chat, request, conversation, faults=faults, record=record)
        except Refusal as refusal:
            record.ended, record.status = "refused", refusal.status
            self._counts.answered(refusal.status)
            raise
        record.status = 0 if faults.no_answer else 200
        self._counts.answered(record.status)
        self._counts.speaks(record)
        return delivery

    def _choose(self, chat: ChatRequest, request: Request, conversation: Conversation) -> Faults:
        faults = self._chooser.choose(
            question=conversation.question, resumes=conversation.kind != "answer"
        )
        told = (request.headers.get("x-sim-fault"), (chat.metadata or {}).get("fault"))
        try:
            for text in filter(None, told):
                faults = merge(faults, parse_faults(str(text)))
        except ValueError as error:
            raise Refusal(400, str(error), param="x-sim-fault") from error
        return faults

    def _deliver(
        self,
        chat: ChatRequest,
        request: Request,
        conversation: Conversation,
        *,
        faults: Faults,
        record: Record,
    ) -> Delivery:
        self._refuse(request, faults)
        limits = self._quota.take()
        settings = self._settings
        wish = _wish(chat, request.headers, settings)
        salt = self._salt(conversation, chat.model, number=record.number)
        answer = plan(chat, conversation, settings, faults=faults, wish=wish, salt=salt)
        if settings.fault_rate:
            mishap = self._mix.draw(record.number, tokens=answer.count)
            faults = merge(mishap, faults)
            record.faults = msgspec.to_builtins(faults)
        record.resumed_at, record.prompt_tokens = answer.resumed_at, answer.prompt_tokens
        speech = Speech(
            chat=chat,
            answer=answer,
            faults=faults,
            record=record,
            seed=settings.seed,
            limits=limits,
        )
        return speech.delivery()

    def _refuse(self, request: Request, faults: Faults) -> None:
        """Raise the refusal that the faults, or too many answers at once, ask for."""
        wait = None if faults.retry_after is None else str(faults.retry_after)
        if faults.status:
            message = f"the simulator was told to answer {faults.status}"
            raise Refusal(faults.status, message, code=faults.code, retry_after=wait)
        if faults.refuse:
            names = msgspec.json.decode(request.body, type=dict[str, msgspec.Raw])
            for name in faults.refuse.split("+"):
                if name in names:
                    message = f"{name}: Extra inputs are not permitted"
                    raise Refusal(422, message, code="extra_forbidden", param=name)
        if self._settings.max_live and self._counts.live >= self._settings.max_live:
            raise Refusal(429, f"{self._settings.max_live} answers are live", retry_after="1")

    def _salt(self, conversation: Conversation, model: str, *, number: int) -> int:
        """Give what makes this sample differ from others; 0 for a question's first answer."""
        if not self._settings.sampling:
            return 0
        key = conversation.key(model)
        if conversation.kind == "answer" and key not in self._answered:
            self._answered[key] = None
            if len(self._answered) > _REMEMBERED:
                del self._answered[next(iter(self._answered))]
            return 0
        return number


def _record(
    chat: ChatRequest, conversation: Conversation, faults: Faults, *, number: int
) -> Record:
    return Record(
        number=number,
        model=chat.model,
        question=conversation.question[:QUESTION_CHARS],
        kind=conversation.kind,
        stream=bool(chat.stream),
        prefix_bytes=len(conversation.said.encode()),
        faults=msgspec.to_builtins(faults) if faults != NONE else {},
    )


def _wish(chat: ChatRequest, headers: Mapping[str, str], settings: SimSettings) -> Wish:
    """Read a request's own wishes, from a header or its metadata. Raises Refusal."""
    metadata = chat.metadata or {}
    tokens = headers.get("x-sim-tokens") or metadata.get("tokens") or settings.tokens
    shape = headers.get("x-sim-shape") or metadata.get("shape") or settings.shape
    if not str(tokens).isdecimal():
        raise Refusal(400, f"{tokens!r} is no number of tokens", param="metadata.tokens")
    for known in _SHAPES:
        if shape == known:
            return Wish(tokens=int(str(tokens)), shape=known)
    raise Refusal(
        400, f"{shape!r} is no shape; there are prose and refrain", param="metadata.shape"
    )
