"""The probe: what does an endpoint make of the beginning of an answer? Asked once, when needed.

It shows the endpoint the opening of a real answer, cut inside a word, and looks at what comes back.
A model that goes on finishes the word; one that answers anew begins as before, or otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from pipeline.ports import Ask, Delta, Finding, GoOnFrom, Source
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Kind, Prefill
from tokenspool.store.endpoints import Known

#: Tokens one question of the probe may cost.
PROBE_TOKENS = 16
#: This much equal text is no chance.
SURE_BYTES = 20
#: The rest of a word, by which a sampling model shows that it goes on.
REST_CHARS = 3


def choose_cut(text: str) -> int:
    """Choose where to cut an answer's opening: inside a long word, past the first 64 characters."""
    fallback = min(len(text) // 2, 200)
    last = min(len(text) - SURE_BYTES, 600)
    for at in range(min(64, last), last):
        around = text[at - REST_CHARS : at + REST_CHARS]
        if len(around) == 2 * REST_CHARS and around.isalpha() and around.isascii():
            return at
    return max(1, fallback)


async def probe(
    source: Source, body: Mapping[str, object], text: str, *, flags: Sequence[Prefill]
) -> Finding:
    """Ask with each flag until one works; raises StreamError if it cannot be asked now."""
    at = choose_cut(text)
    generated = rebilled = 0
    known = Known(resumes_by="none")
    for flag in flags:
        try:
            answer, tokens = await _ask(source, body, GoOnFrom(text=text[:at], flag=flag))
        except StreamError as error:
            if error.kind is ErrorKind.REQUEST and error.code != "model_not_found":
                continue  # it refuses this flag, or any trailing assistant message
            raise
        generated += tokens
        rebilled += max(1, at // 4)
        verdict = judge(text, at, answer)
        if verdict == "exact":
            known = Known(resumes_by=flag.value, deterministic=True)
            break
        if verdict == "near":
            known = Known(resumes_by=flag.value, deterministic=False)
            break
        if verdict == "anew":
            known = Known(resumes_by="replay", deterministic=True)
    return Finding(known=known, generated=generated, rebilled=rebilled)


def judge(text: str, at: int, answer: str) -> str:
    """Tell what an answer to `text[:at]` is: `exact`, `near`, `anew` or `other`."""
    saved, opening, said = (part.encode() for part in (text[at:], text, answer))
    sure = min(SURE_BYTES, len(said))
    if sure >= SURE_BYTES // 2:
        if opening.startswith(said[:sure]):
            return "anew"
        if saved.startswith(said[:sure]):
            return "exact"
    rest = ""
    for character in text[at:]:
        if not character.isalpha():
            break
        rest += character
    finished = answer.startswith(rest) and not answer[len(rest) : len(rest) + 1].isalpha()
    if len(rest) >= REST_CHARS and finished:
        return "near"
    return "other"


async def _ask(source: Source, body: Mapping[str, object], turn: GoOnFrom) -> tuple[str, int]:
    parts: list[bytes] = []
    tokens = 0
    async with contextlib.aclosing(
        source.stream(Ask(body=body, turn=turn, limit=PROBE_TOKENS))
    ) as events:
        async for event in events:
            if isinstance(event, Delta):
                tokens += event.chunks
                if event.kind is Kind.TEXT:
                    parts.append(event.data)
    return b"".join(parts).decode(), tokens
