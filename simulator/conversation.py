"""Reading a chat request: the question, and what of the answer it brings along."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from simulator.mixing import fingerprint
from simulator.refusal import Refusal

#: How a user turn asks to go on, when it does not quote the end of what was said.
_GO_ON = re.compile(r"\b(?:continue|interrupted|cut off|go on|carry on)\b", re.IGNORECASE)
#: So much of the end of an answer is a quotation and no chance.
_QUOTED_CHARS = 16
#: A token is about four bytes; each message costs a few more.
_BYTES_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


class Message(msgspec.Struct, kw_only=True):
    """One turn of a conversation."""

    role: str
    content: str | list[dict[str, object]] | None = None
    prefix: bool | None = None
    partial: bool | None = None

    @property
    def text(self) -> str:
        """Its text, whichever way it is written."""
        if isinstance(self.content, list):
            return "".join(str(part.get("text") or "") for part in self.content)
        return self.content or ""


class ChatRequest(msgspec.Struct, kw_only=True):
    """The fields of a request that the simulator looks at."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: dict[str, object] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    metadata: dict[str, object] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens it wants."""
        limits = [n for n in (self.max_tokens, self.max_completion_tokens) if n is not None]
        return min(limits, default=None)

    @property
    def prompt_tokens(self) -> int:
        """About how many tokens its messages are."""
        size = sum(len(message.text.encode()) for message in self.messages)
        return size // _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * len(self.messages)

    @property
    def wants_usage(self) -> bool:
        """Tell whether it wants a last chunk with what was used."""
        return bool((self.stream_options or {}).get("include_usage"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A request's question, and the beginning of an answer that it brings along."""

    #: Up to and including the user message that the answer is for.
    turns: tuple[Message, ...]
    #: `answer`: nothing is said yet; `prefix`: by a trailing assistant message; `ask`: asked on.
    kind: Literal["answer", "prefix", "ask"]
    said: str = ""
    #: The trailing assistant message, with its flags.
    last: Message | None = None

    @property
    def question(self) -> str:
        """The text of the user message that the answer is for."""
        return self.turns[-1].text if self.turns else ""

    def key(self, model: str) -> int:
        """Give what decides the text, together with the seed. Sampling parameters do not."""
        parts = [model.encode()]
        for turn in self.turns:
            parts += (turn.role.encode(), turn.text.encode())
            if isinstance(turn.content, list):
                others = [part for part in turn.content if "text" not in part]
                parts += (msgspec.json.encode(part, order="sorted") for part in others)
        return fingerprint(parts)


def read_request(body: bytes) -> ChatRequest:
    """Read a request body. Raises Refusal."""
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Refusal(400, f"the request is not one for chat completions: {error}") from error
    if not request.messages:
        raise Refusal(400, "messages is empty: say at least one", param="messages")
    if request.n not in {None, 1}:
        raise Refusal(400, "n is not 1: this endpoint gives one answer", param="n")
    if request.limit is not None and request.limit < 1:
        raise Refusal(400, "max_tokens is less than 1", param="max_tokens")
    return request


def understand(messages: list[Message]) -> Conversation:
    """Find the question of a conversation, and what of its answer is there already."""
    last = messages[-1]
    if last.role == "assistant":
        turns = _to_question(messages[:-1])
        return Conversation(turns=turns, kind="prefix", said=last.text, last=last)
    said = ""
    while len(messages) > 2 and _asks_on(messages[-1], messages[-2]):  # noqa: PLR2004 - and a question
        said = messages[-2].text + said
        messages = messages[:-2]
    kind: Literal["ask", "answer"] = "ask" if said else "answer"
    return Conversation(turns=_to_question(messages), kind=kind, said=said)


def _to_question(messages: list[Message]) -> tuple[Message, ...]:
    """Leave out what follows the last user message; without one, nothing."""
    users = [at for at, message in enumerate(messages) if message.role == "user"]
    return tuple(messages[: users[-1] + 1] if users else messages)


def _asks_on(turn: Message, before: Message) -> bool:
    """Tell whether a user turn asks to go on with the assistant message before it."""
    if turn.role != "user" or before.role != "assistant" or not before.text:
        return False
    end = before.text.rstrip()[-_QUOTED_CHARS:]
    quotes = len(end) == _QUOTED_CHARS and end in turn.text
    return quotes or _GO_ON.search(turn.text) is not None
