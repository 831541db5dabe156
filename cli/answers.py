"""Ended jobs as lines of an export. A line is made in pieces: its text is never whole in memory."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cli.objects import read_object
from tokenspool.model import JobState, Kind
from tokenspool.roots import is_url
from tokenspool.store.outcomes import Outcome
from tokenspool.store.text import read_all, read_text

#: Tool calls and refusals are put together in memory; no honest one is longer.
_MAX_WHOLE = 64 * 1024 * 1024
_READ = 1024 * 1024
#: Stands where a long text belongs. Random, so that no text can contain it.
_MARK = secrets.token_hex(16)
_SPLIT = re.compile(f'"{_MARK}:([a-z]+)"')

Document = dict[str, Any]
Lines = Callable[[sa.Connection, Outcome], Iterator[bytes]]


class TextGoneError(Exception):
    """A done job's text is pruned from the journal and its output is not what it was."""


def jsonl_line(connection: sa.Connection, outcome: Outcome) -> Iterator[bytes]:
    """Yield one line of our own form. The text of a failed job is `partial`, never `text`."""
    _prove(outcome)
    whole = outcome.state is JobState.DONE
    text = _mark(Kind.TEXT) if outcome.checkpoint.text or whole else None
    spent = outcome.checkpoint.spent
    document: Document = {
        "custom_id": outcome.custom_id,
        "state": outcome.state.value,
        "finish": outcome.finish,
        "text": text if whole else None,
        "reasoning": _long(outcome, Kind.REASONING),
        "refusal": _short(connection, outcome, Kind.REFUSAL),
        "tool_calls": _tool_calls(connection, outcome),
        "seams": [dict(seam) for seam in outcome.seams],
        "metadata": _metadata(outcome),
        "tokens": {
            "generated": spent.generated,
            "needed": spent.needed,
            "rebilled": spent.rebilled,
            "estimated": spent.estimated,
        },
        "error": _error(outcome),
    }
    if not whole:
        document["partial"] = text
    yield from _pieces(connection, outcome, document)


def batch_line(connection: sa.Connection, outcome: Outcome) -> Iterator[bytes]:
    """Yield one line as the OpenAI Batch API gives results and errors."""
    _prove(outcome)
    response: Document | None = None
    if outcome.state is JobState.DONE:
        body = _completion(connection, outcome)
        response = {"status_code": 200, "request_id": outcome.request_id or "", "body": body}
    document = {
        "id": f"batch_req_{outcome.id}",
        "custom_id": outcome.custom_id,
        "response": response,
        "error": None if response else _batch_error(outcome),
    }
    yield from _pieces(connection, outcome, document)


def _completion(connection: sa.Connection, outcome: Outcome) -> Document:
    calls = _tool_calls(connection, outcome)
    message: Document = {
        "role": "assistant",
        "content": _mark(Kind.TEXT) if outcome.length or not calls else None,
        "refusal": _short(connection, outcome, Kind.REFUSAL),
    }
    if calls:
        message["tool_calls"] = calls
    reasoning = _long(outcome, Kind.REASONING)
    if reasoning:
        message["reasoning_content"] = reasoning
    # `unconfirmed` is ours alone: the endpoint ends with [DONE] and gives no reason.
    finish = "stop" if outcome.finish in {None, "unconfirmed"} else outcome.finish
    return {
        "id": f"chatcmpl-tokenspool-{outcome.id}",
        "object": "chat.completion",
        "created": int(outcome.ended_at),
        "model": outcome.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        # Over several answers the prompt was billed several times: no honest number fits here.
        "usage": None,
    }


def _error(outcome: Outcome) -> Document | None:
    if outcome.error is None:
        return None
    return {"kind": outcome.error.value, "message": outcome.message}


def _batch_error(outcome: Outcome) -> Document:
    kind = outcome.error.value if outcome.error else outcome.state.value
    return {"code": kind, "message": outcome.message or f"the job is {outcome.state}"}


def _metadata(outcome: Outcome) -> object:
    if outcome.extra is None:
        return None
    extra = json.loads(outcome.extra)
    return extra.get("metadata") if isinstance(extra, dict) and "metadata" in extra else extra


def _short(connection: sa.Connection, outcome: Outcome, kind: Kind) -> str | None:
    if not outcome.checkpoint.offsets.get(kind):
        return None
    edition = outcome.checkpoint.edition
    data = read_all(connection, outcome.id, edition=edition, kind=kind, limit=_MAX_WHOLE)
    return data.decode(errors="replace")


def _tool_calls(connection: sa.Connection, outcome: Outcome) -> list[Document] | None:
    """Put the calls together from their deltas, which the journal keeps as JSON lines."""
    deltas = _short(connection, outcome, Kind.TOOL)
    if deltas is None:
        return None
    calls: dict[int, Document] = {}
    # Not splitlines(): JSON may hold a U+2028 as it is.
    for line in deltas.split("\n"):
        if not line:
            continue
        delta = json.loads(line)
        call = calls.setdefault(
            delta.get("index") or 0,
            {"id": None, "type": "function", "function": {"name": "", "arguments": ""}},
        )
        call["id"] = call["id"] or delta.get("id")
        call["function"]["name"] = call["function"]["name"] or delta.get("name") or ""
        call["function"]["arguments"] += delta.get("arguments") or ""
    for call in calls.values():
        call["function"]["arguments"] = _joined(call["function"]["arguments"])
    return [calls[index] for index in sorted(calls)]


def _joined(text: str) -> str:
    """Join surrogate pairs whose halves came in two deltas; a half alone becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- long texts ---------------------------------------------------------------------------------
def _mark(kind: Kind) -> str:
    return f"{_MARK}:{kind.value}"


def _long(outcome: Outcome, kind: Kind) -> str | None:
    return _mark(kind) if outcome.checkpoint.offsets.get(kind) else None


def _pieces(connection: sa.Connection, outcome: Outcome, document: Document) -> Iterator[bytes]:
    """Yield the document as one line, with the long texts streamed into their places."""
    plain = _SPLIT.split(_json(document))
    for at, part in enumerate(plain):
        if at % 2 == 0:
            yield part.encode(errors="replace")
        else:
            yield from _quoted(_text(connection, outcome, Kind(part)))
    yield b"\n"


def _text(connection: sa.Connection, outcome: Outcome, kind: Kind) -> Iterator[bytes]:
    if kind is Kind.TEXT and outcome.is_pruned:
        yield from _from_output(outcome)
        return
    point = outcome.checkpoint
    yield from read_text(
        connection, outcome.id, edition=point.edition, kind=kind, stop=point.offsets.get(kind, 0)
    )


def _prove(outcome: Outcome) -> None:
    """Prove, before anything of its line is out, that a pruned text stands in its output file."""
    if not outcome.is_pruned:
        return
    digest = hashlib.sha256()
    try:
        for data in _from_output(outcome):
            digest.update(data)
    except OSError as error:
        raise TextGoneError(outcome.path) from error
    if digest.digest() != outcome.sha256:
        raise TextGoneError(outcome.path)


def _from_output(outcome: Outcome) -> Iterator[bytes]:
    if is_url(outcome.root):
        yield from read_object(outcome)
        return
    with Path(outcome.path).open("rb") as file:
        while data := file.read(_READ):
            yield data


def _quoted(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a JSON string made of UTF-8 pieces that may be cut anywhere."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    yield b'"'
    for piece in pieces:
        yield _json(decoder.decode(piece))[1:-1].encode()
    yield _json(decoder.decode(b"", final=True))[1:-1].encode() + b'"'


def _json(value: object) -> str:
    """Give JSON on what everybody takes for one line: some readers split at these three, too."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.translate({0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"})
