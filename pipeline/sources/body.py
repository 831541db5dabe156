"""The request body of a chat completion: the user's own, the turn, and an endpoint's quirks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from pipeline.ports import Ask, AskOn, Fresh, GoOnFrom
from tokenspool.model import Prefill

OLD_LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
#: Refusals of a parameter as such; of its value they speak otherwise.
_UNKNOWN_PARAMETER = re.compile(
    r"unsupported|not (?:be )?(?:supported|permitted|allowed)|unrecogni[sz]ed|unknown|unexpected"
    r"|extra|forbidden|does(?: not|n't) support",
    re.IGNORECASE,
)

#: What is put behind an interrupted answer. It must work for text in any language, so it says so.
ASK_ON = (
    "Your answer above was cut off by a technical interruption. Its last characters are between"
    " the tags:\n<tail>{tail}</tail>\n"
    "Continue the answer from exactly there, in its own language, style and format. Your reply is"
    " appended directly after the last character inside the tags, so begin with what comes next,"
    " even in the middle of a word or line. Repeat nothing that is already written. Do not"
    " mention the interruption and add no introduction, comment, greeting or code fence."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """What an endpoint takes and what it refuses: known by its host, or learned from a refusal."""

    #: Does it take `stream_options`? Without it there is no usage.
    takes_stream_options: bool = True
    #: The limit's name where the body has none.
    limit_name: str = OLD_LIMIT
    #: Whether the name was learned; then it also replaces the body's own.
    limit_is_learned: bool = False
    #: Does it pad its chunks unless told not to?
    pads: bool = False


def quirks_for(url: str) -> Quirks:
    """Give what is known beforehand of the endpoint at a base URL."""
    host = (urlsplit(url).hostname or "").lower()
    openai = host == "api.openai.com" or host.endswith(".api.openai.com")
    azure = host.endswith((".openai.azure.com", ".cognitiveservices.azure.com"))
    return Quirks(limit_name=NEW_LIMIT if openai or azure else OLD_LIMIT, pads=openai)


def learn(quirks: Quirks, body: Mapping[str, Any], refusal: str) -> Quirks | None:
    """Learn from a refused body what to leave out or to rename; None if it is not about that."""
    if not _UNKNOWN_PARAMETER.search(refusal):
        return None
    if "stream_options" in body and "stream_options" in refusal:
        return replace(quirks, takes_stream_options=False)
    for name, other in ((NEW_LIMIT, OLD_LIMIT), (OLD_LIMIT, NEW_LIMIT)):
        if name in body and re.search(rf"\b{name}\b", refusal):
            return replace(quirks, limit_name=other, limit_is_learned=True)
    return None


def chat_body(ask: Ask, quirks: Quirks) -> dict[str, Any]:
    """Give the body to send; the user's is not changed."""
    body: dict[str, Any] = {**ask.body}
    body.pop("n", None)
    options = body.pop("stream_options", None)
    body["stream"] = True
    if quirks.takes_stream_options:
        options = {**options} if isinstance(options, Mapping) else {}
        options["include_usage"] = True
        if quirks.pads:
            options["include_obfuscation"] = False
        body["stream_options"] = options
    _set_limit(body, ask.limit, quirks)
    if not isinstance(ask.turn, Fresh):
        messages = body.get("messages")
        body["messages"] = _with_turn(messages if isinstance(messages, list) else [], ask.turn)
        if isinstance(ask.turn, GoOnFrom) and ask.turn.flag is Prefill.CONTINUE_FINAL_MESSAGE:
            body["continue_final_message"] = True
            body["add_generation_prompt"] = False
    return body


def _set_limit(body: dict[str, Any], limit: int | None, quirks: Quirks) -> None:
    own = next((name for name in (NEW_LIMIT, OLD_LIMIT) if body.get(name) is not None), None)
    if limit is None and own is None:
        return
    value = limit if limit is not None else body[own or OLD_LIMIT]
    name = quirks.limit_name if quirks.limit_is_learned or own is None else own
    for old in (NEW_LIMIT, OLD_LIMIT):
        body.pop(old, None)
    body[name] = value


def _with_turn(messages: list[Any], turn: GoOnFrom | AskOn) -> list[Any]:
    """Put the answer so far behind the messages.

    A trailing assistant message of the user's own is the answer's beginning: the two are one, since
    servers refuse two in a row.
    """
    begun: dict[str, Any] = {"role": "assistant", "content": ""}
    last = messages[-1] if messages else None
    if (
        isinstance(last, Mapping)
        and last.get("role") == "assistant"
        and isinstance(last.get("content"), str)
    ):
        begun, messages = {**last}, messages[:-1]
    begun["content"] += turn.text
    if isinstance(turn, AskOn):
        begun.pop("prefix", None)
        begun.pop("partial", None)
        return [*messages, begun, {"role": "user", "content": ASK_ON.format(tail=turn.tail)}]
    if turn.flag is Prefill.PREFIX:
        begun["prefix"] = True
    elif turn.flag is Prefill.PARTIAL:
        begun["partial"] = True
    return [*messages, begun]
