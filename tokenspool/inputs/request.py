"""From a line's fields to the request body; what an endpoint may judge is left to the endpoint."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from tokenspool.errors import UsageError
from tokenspool.inputs.document import Document, json_kind
from tokenspool.inputs.spec import MAX_TOKENS
from tokenspool.names import quoted

URL = "/v1/chat/completions"

_BATCH_FIELDS = frozenset({"method", "url", "body"})
_SHORT_FIELDS = frozenset({"prompt", "messages", "system", "model", "params"})
_SHARED_FIELDS = frozenset({"custom_id", "max_output_tokens", "priority", "output", "metadata"})
FIELDS = _BATCH_FIELDS | _SHORT_FIELDS | _SHARED_FIELDS
#: What a body has that was made of a prompt or messages without params.
_MADE = frozenset({"model", "messages"})
_HEAD = f"POST {URL}\n".encode()
#: Ours to set: a stored answer is always streamed.
_STREAMING = ("stream", "stream_options")
_LATER_URLS = frozenset({"/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/moderations"})
_SECRETS = frozenset(
    {
        "api_key",
        "apikey",
        "authorization",
        "default_headers",
        "extra_headers",
        "headers",
        "openai_api_key",
        "x_api_key",
    }
)
#: Names that most lines have nothing but, so that they need no closer look.
_HARMLESS = FIELDS | {"temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop"}
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


def body_of(doc: Document, *, model: str | None) -> Document:
    """Give the request body of a line, with `model` filled in; `UsageError` says what is wrong."""
    refuse_secrets(doc)
    body = _made(doc, model) if _BATCH_FIELDS.isdisjoint(doc) else _given(doc, model)
    if body.keys() == _MADE:
        return body
    refuse_secrets(body)
    for name in _STREAMING:
        body.pop(name, None)
    answers = body.get("n")
    if answers is not None and (type(answers) is not int or answers != 1):
        msg = "n: a job is one answer; write a line for each"
        raise UsageError(msg)
    for name in ("max_tokens", "max_completion_tokens"):
        positive(body, name)
    return body


def encoded(body: Document) -> tuple[bytes, bytes]:
    """Give the body as it is kept, in its own order, and the 16 bytes that stand for its content.

    The kept order matters: an endpoint may write structured output in the order of the schema.
    """
    return _encode(body), blake2b(_HEAD + _encode_sorted(body), digest_size=16).digest()


def text(doc: Document, name: str) -> str | None:
    """Give a field that must be a string; None where there is none."""
    value = doc.get(name)
    if value is None or isinstance(value, str):
        return value
    msg = f"{name} must be a string, not {json_kind(value)}"
    raise UsageError(msg)


def mapping(doc: Document, name: str) -> Document | None:
    """Give a field that must be an object; None where there is none."""
    value = doc.get(name)
    if value is None or isinstance(value, dict):
        return value
    msg = f"{name} must be an object, not {json_kind(value)}"
    raise UsageError(msg)


def whole(doc: Document, name: str, *, low: int, high: int) -> int | None:
    """Give a field that must be a whole number in a range; None where there is none."""
    value = doc.get(name)
    if value is None or (type(value) is int and low <= value <= high):
        return value
    shown = value if type(value) in {int, float} and len(str(value)) < 25 else json_kind(value)  # noqa: PLR2004
    msg = f"{name} must be a whole number from {low} to {high}, not {shown}"
    raise UsageError(msg)


def positive(doc: Document, name: str) -> int | None:
    """Give a token budget; None where there is none."""
    return whole(doc, name, low=1, high=MAX_TOKENS) if name in doc else None


def refuse_secrets(fields: Document) -> None:
    """Refuse what would put a key into the database."""
    if fields.keys() <= _HARMLESS:
        return
    for name in fields:
        if name.lower().replace("-", "_") in _SECRETS:
            msg = f"{quoted(name)} must not stand in an input: keys are named, never kept"
            raise UsageError(msg)


def _given(doc: Document, model: str | None) -> Document:
    """Take the body of a line in OpenAI's Batch form."""
    for name in _SHORT_FIELDS:
        if doc.get(name) is not None:
            msg = f"{name} belongs into body; a line has a body, or a prompt or messages"
            raise UsageError(msg)
    method, url, body = text(doc, "method"), text(doc, "url"), mapping(doc, "body")
    if method not in {None, "POST"}:
        msg = f"method must be POST, not {quoted(str(method))}"
        raise UsageError(msg)
    if url not in {None, URL}:
        later = "is not supported yet" if url in _LATER_URLS else "is not known"
        msg = f"url {quoted(str(url))} {later}; it must be {URL}"
        raise UsageError(msg)
    if body is None:
        msg = "body is missing"
        raise UsageError(msg)
    _checked(body.get("messages"))
    return {
        "model": _model(text(body, "model"), model),
        **{k: v for k, v in body.items() if k != "model"},
    }


def _made(doc: Document, model: str | None) -> Document:
    """Make the body of a line in the short form."""
    params = mapping(doc, "params") or {}
    for name in ("messages", "model", "prompt", "system"):
        if name in params:
            msg = f"params must not hold {name}: it is a field of the line itself"
            raise UsageError(msg)
    body: Document = {"model": _model(text(doc, "model"), model), "messages": _messages(doc)}
    return body | params


def _model(own: str | None, default: str | None) -> str:
    model = own if own is not None else default
    if model is None:
        msg = "no model: name it in the line, or for all lines with --model"
        raise UsageError(msg)
    if not model.strip() or not model.isprintable():
        msg = f"the model {quoted(model)} is no name of a model"
        raise UsageError(msg)
    return model


def _messages(doc: Document) -> list[Document]:
    prompt, system, messages = text(doc, "prompt"), text(doc, "system"), doc.get("messages")
    if prompt is not None and messages is not None:
        msg = "prompt and messages are both there; keep one"
        raise UsageError(msg)
    if prompt is not None:
        if not prompt.strip():
            msg = "the prompt is empty"
            raise UsageError(msg)
        conversation: list[Document] = [{"role": "user", "content": prompt}]
    elif messages is not None:
        conversation = _checked(messages)
    else:
        msg = "there is neither prompt nor messages"
        raise UsageError(msg)
    if system is None:
        return conversation
    if any(message["role"] == "system" for message in conversation):
        msg = "system is there twice: as a field and in messages"
        raise UsageError(msg)
    return [{"role": "system", "content": system}, *conversation]


def _checked(messages: object) -> list[Document]:
    """Refuse what is no conversation; roles are the endpoint's to know."""
    if not isinstance(messages, list) or not messages:
        what = "is empty" if messages == [] else f"must be an array, not {json_kind(messages)}"
        msg = f"messages {what}"
        raise UsageError(msg)
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            msg = f"messages[{at}] must be an object, not {json_kind(message)}"
            raise UsageError(msg)
        role = message.get("role")
        if not isinstance(role, str) or not role:
            msg = f"messages[{at}] has no role"
            raise UsageError(msg)
        content = message.get("content")
        if not isinstance(content, str | list | None):
            msg = f"messages[{at}].content must be a string or an array, not {json_kind(content)}"
            raise UsageError(msg)
    return messages
