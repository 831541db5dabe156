"""Choosing how a cut answer is taken up again, and preparing the request. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.joining import MIN_OVERLAP_BYTES, OPENING_BYTES
from pipeline.ports import AskOn, Fresh, GoOnFrom, Turn
from tokenspool.model import Kind, Prefill, Resume
from tokenspool.store.endpoints import Known

#: Below this many tokens a restart is cheaper than a seam that is only approximate.
SHORT_TOKENS = 300
#: A longer text is not put back whole: no model's context holds it.
MAX_PREFIX_BYTES = 4 * 1024 * 1024
#: What `continue` shows of a longer text.
MAX_HISTORY_BYTES = 256 * 1024
QUOTED_CHARS = 300
#: For token healing at most the last word is held back.
HEALED_BYTES = 64

_SPACE = " \t\r\n\v\f"
#: How requests ask for a grammar beside `response_format`, on vLLM, SGLang and llama.cpp.
_GRAMMARS = frozenset(
    {"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"}
    | {"json_schema", "regex", "ebnf", "grammar"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What is saved of an answer that did not end."""

    text: int
    other: int
    tokens: int
    #: Is a tool call open, or is the answer bound to a grammar? Then it cannot be joined.
    bound: bool


def is_bound(body: Mapping[str, object], offsets: Mapping[Kind, int]) -> bool:
    """Tell whether an answer can only be made anew: tool calls, refusals, structured output."""
    said = body.get("text")  # the Responses wire keeps its format there
    forms = (body.get("response_format"), said.get("format") if isinstance(said, Mapping) else None)
    structured = any(
        isinstance(form, Mapping) and form.get("type") not in {None, "text"} for form in forms
    ) or any(body.get(name) for name in _GRAMMARS)
    return structured or bool(offsets.get(Kind.TOOL) or offsets.get(Kind.REFUSAL))


def choose(
    policy: Resume, saved: Saved, known: Known, *, cause: str, flag: Prefill | None
) -> Resume | None:
    """Choose the strategy for the next answer; None asks fresh, AUTO means: probe first.

    `flag` is how the endpoint's profile says it is told to go on, None when it says that it cannot.
    """
    if saved.text == 0:
        return None if saved.other == 0 else Resume.RESTART
    if saved.bound:
        return Resume.RESTART
    if policy is Resume.AUTO:
        return _choose_auto(saved, known, cause=cause, flag=flag)
    if policy is Resume.PREFILL and saved.text > MAX_PREFIX_BYTES:
        return Resume.CONTINUE
    return policy


def _choose_auto(saved: Saved, known: Known, *, cause: str, flag: Prefill | None) -> Resume:
    by = known.resumes_by
    if not by and flag is not None:
        # Too little text to show by: nothing is proven by it, and it is as cheap to make anew.
        if cause == "length":
            return Resume.AUTO if saved.text >= OPENING_BYTES else Resume.CONTINUE
        return Resume.AUTO if saved.text >= 2 * OPENING_BYTES else Resume.RESTART
    if by in set(Prefill) and saved.text <= MAX_PREFIX_BYTES:
        return Resume.PREFILL
    if cause == "length":
        return Resume.CONTINUE
    if by == "replay":
        return Resume.REPLAY
    return Resume.CONTINUE if saved.tokens >= SHORT_TOKENS else Resume.RESTART


def after_refusal(policy: Resume, refused: Resume, saved: Saved, *, cause: str) -> Resume:
    """Choose what to fall back to when an answer could not be joined."""
    if refused in {Resume.PREFILL, Resume.REPLAY} and (
        cause == "length" or saved.tokens >= SHORT_TOKENS
    ):
        return Resume.CONTINUE
    if cause == "length" and policy is not Resume.RESTART:
        return Resume.CONTINUE
    return Resume.RESTART


def split_prefix(text: str, *, heal: bool = False) -> tuple[str, str]:
    """Cut a saved text into the prefix to send and the tail to hold back.

    Never trailing white space: templates trim it and some servers refuse it. With `heal` also the
    last word, so that the model chooses its tokens anew where ours may have cut one.
    """
    sent = text.rstrip(_SPACE)
    if heal:
        words = sent.rstrip()  # of every script's white space
        word = len(words) - len((words.rsplit(None, 1) or [""])[-1])
        if word > 0 and len(sent[word:].encode()) <= HEALED_BYTES:
            sent = sent[:word].rstrip(_SPACE)
    return sent, text[len(sent) :]


def split_apart(text: str) -> tuple[str, str] | None:
    """Cut a saved text where going on and answering anew look different.

    For a text that repeats its own opening (a refrain): the tail that is held back differs from the
    document's beginning, so the first bytes of the answer tell the two apart. None if there is no
    such place.
    """
    data = text.encode()
    for size in range(MIN_OVERLAP_BYTES, 16 * MIN_OVERLAP_BYTES):
        at = len(data) - size
        if at <= 0:
            return None
        inside_character = data[at] & 0xC0 == 0x80  # noqa: PLR2004 - UTF-8's continuation bytes
        if inside_character or data[at - 1 : at].isspace():
            continue
        tail = data[at:]
        if not tail[:MIN_OVERLAP_BYTES].strip() or data.startswith(tail):
            continue
        if data[:MIN_OVERLAP_BYTES] == tail[:MIN_OVERLAP_BYTES]:
            continue
        return data[:at].decode(), tail.decode()
    return None


def turn_for(strategy: Resume | None, prefix: str, *, flag: Prefill | None) -> Turn:
    """Prepare the turn that a source renders into its wire's request."""
    if strategy is Resume.PREFILL:
        return GoOnFrom(text=prefix, flag=flag or Prefill.CONTINUE_FINAL_MESSAGE)
    if strategy is Resume.CONTINUE:
        return AskOn(text=prefix, tail=prefix[-QUOTED_CHARS:])
    return Fresh()
