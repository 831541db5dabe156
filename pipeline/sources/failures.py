"""What an endpoint's refusals and faults mean: StreamErrors in our own words and kinds.

Decided from statuses and codes, from a message's words only where a server gives nothing else. A
message is one line for a person; it never holds the key or a header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import httpx2
import openai

from pipeline.sources.waiting import retry_after_s
from tokenspool.errors import ErrorKind, StreamError

MAX_MESSAGE = 500
#: Of what is shown to a person this much is looked at.
EXCERPT_BYTES = 2048
#: Stands for a key where a server wants none: an everyday word, no secret.
NO_KEY = "none"
MODEL_NOT_FOUND = "model_not_found"
_K = ErrorKind

#: Kinds by status; what is not here goes by its hundred.
_STATUSES: dict[int, ErrorKind] = {
    401: _K.AUTH,
    402: _K.RATE_LIMITED,  # the account's money or its share is spent: waiting for a person
    403: _K.AUTH,
    # No such path: the base URL is wrong, or the server behind it is not the one we think.
    404: _K.CONNECT,
    405: _K.CONNECT,
    408: _K.SERVER,
    409: _K.SERVER,
    425: _K.OVERLOADED,
    429: _K.RATE_LIMITED,
    500: _K.SERVER,
    501: _K.SERVER,
    505: _K.SERVER,
}
#: Kinds by what code and type are made of (letters only, small), the first that is found.
_NAMES: tuple[tuple[str, ErrorKind], ...] = (
    ("ratelimit", _K.RATE_LIMITED),
    ("toomanyrequests", _K.RATE_LIMITED),
    ("quota", _K.RATE_LIMITED),
    ("resourceexhausted", _K.RATE_LIMITED),
    ("overload", _K.OVERLOADED),
    ("unavailable", _K.OVERLOADED),
    ("capacity", _K.OVERLOADED),
    ("timeout", _K.OVERLOADED),
    ("contentfilter", _K.CONTENT_FILTER),
    ("contentpolicy", _K.CONTENT_FILTER),
    ("apikey", _K.AUTH),
    ("authentication", _K.AUTH),
    ("unauthorized", _K.AUTH),
    ("permission", _K.AUTH),
    ("notfound", _K.REQUEST),
    ("contextlength", _K.REQUEST),
    ("invalidrequest", _K.REQUEST),
    ("badrequest", _K.REQUEST),
    ("invalidprompt", _K.REQUEST),
    ("validation", _K.REQUEST),
    ("server", _K.SERVER),
    ("internal", _K.SERVER),
)
#: The same by the message, for servers that give nothing else.
_SAID: tuple[tuple[re.Pattern[str], ErrorKind], ...] = (
    (re.compile(r"rate.?limit|too many requests", re.IGNORECASE), _K.RATE_LIMITED),
    (re.compile(r"overload|at capacity|unavailable", re.IGNORECASE), _K.OVERLOADED),
    (re.compile(r"context (?:length|window)", re.IGNORECASE), _K.REQUEST),
)
_NO_MODEL = re.compile(
    r"\b(?:models?|deployment)\b.{0,120}?\bnot (?:exist|found)\b"
    r"|\bno such (?:model|deployment)\b|\bnot a valid model\b",
    re.IGNORECASE | re.DOTALL,
)
_NOT_THE_KEY = re.compile(
    r"content|moderation|flagged|policy|region|country|territory", re.IGNORECASE
)
_SECRETS = re.compile(r"\b(?:sk|key|pk|gsk|xai)-[\w*.-]{4,}|\bbearer\s+\S+", re.IGNORECASE)
_TAGS = re.compile(r"<(?:style|script|title)\b.*?</[^>]*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Whom a failure is about."""

    host: str
    #: Never to be seen in a message.
    secret: str = ""

    @classmethod
    def of(cls, url: str, secret: str) -> Self:
        """Name the site of a base URL, without what it holds of a user and a password."""
        host = urlsplit(url).netloc.rpartition("@")[2] or url
        return cls(host=host, secret="" if secret == NO_KEY else secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a server said of an error, wherever it put it."""

    message: str = ""
    code: str | None = None
    type: str | None = None
    #: A status that stands in the body: all that a stream's own error has.
    status: int | None = None


def read_error(error: object) -> Said:
    """Read an error of any form: an object, an object in a list, a text, a number."""
    if isinstance(error, list) and error:
        error = error[0]
    if not isinstance(error, Mapping):
        return Said(message="" if error is None else str(error))
    inner = error.get("error")
    if isinstance(inner, Mapping | str) and inner and "message" not in error:
        return read_error(inner)
    message = error.get("message") or error.get("detail") or error.get("msg") or ""
    code, kind = error.get("code"), error.get("type") or error.get("status")
    status = next((s for s in map(_status, (code, error.get("status"), kind)) if s), None)
    return Said(
        message=message if isinstance(message, str) else str(message),
        code=None if code is None else str(code),
        type=kind if isinstance(kind, str) else None,
        status=status,
    )


def error_in_answer(error: object, site: Site) -> StreamError:
    """Give the failure that a stream or a 200 holds in place of an answer."""
    said = read_error(error)
    message = clean(said.message, site.secret) or "without a reason"
    return StreamError(
        kind_of(said, said.status),
        f"{site.host} ended the answer with an error: {message}",
        status=said.status,
        retry_after_s=retry_after_s({}, said.message),
        code=_code(said, said.status),
    )


def failure_of(error: Exception, site: Site, *, reading: bool = False) -> StreamError:
    """Give what an exception of the client or of its transport means."""
    if isinstance(error, openai.APIStatusError):
        return _refusal(error, site)
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    reason = clean(str(cause or error), site.secret)
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
        return StreamError(_K.CONNECT, f"no connection to {site.host}: {reason}")
    if isinstance(cause, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return StreamError(_K.CONNECT, f"the base URL of {site.host} cannot be used: {reason}")
    if isinstance(cause, httpx2.TimeoutException):
        kind = _K.IDLE_TIMEOUT if reading else _K.FIRST_BYTE_TIMEOUT
        return StreamError(kind, f"{site.host} was silent for too long")
    if isinstance(cause, httpx2.TransportError):
        return StreamError(_K.NETWORK, f"{site.host}: {reason}")
    # What the client itself refuses to send: no retry makes it right.
    return StreamError(_K.REQUEST, f"the request to {site.host} cannot be made: {reason}")


def _refusal(error: openai.APIStatusError, site: Site) -> StreamError:
    status, headers = error.status_code, error.response.headers
    said = read_error(error.body)
    if not said.message and not isinstance(error.body, Mapping):
        said = Said(message=excerpt(error.response.content, site.secret))
    message = clean(said.message, site.secret) or "without a reason"
    return StreamError(
        kind_of(said, status),
        f"{site.host} answered {status}: {message}",
        status=status,
        retry_after_s=retry_after_s(headers, said.message),
        code=_code(said, status),
        request_id=request_id(headers, site.secret),
    )


def request_id(headers: Mapping[str, str], secret: str) -> str | None:
    """Give the provider's own name of a request, by which it can be asked about."""
    for name in ("x-request-id", "request-id", "x-generation-id", "apim-request-id"):
        if found := headers.get(name):
            return clean(found, secret)[:200]
    return None


def kind_of(said: Said, status: int | None) -> ErrorKind:  # noqa: PLR0911 - a table in words
    """Decide the kind of an error: its status first, then its names, then its words."""
    names = "".join(filter(str.isalpha, f"{said.type or ''} {said.code or ''}".lower()))
    named = next((kind for part, kind in _NAMES if part in names), None)
    if status is None:
        worded = next((kind for words, kind in _SAID if words.search(said.message)), None)
        return named or worded or _K.SERVER
    if status in {400, 422} and named is _K.CONTENT_FILTER:
        return named
    if status == 403 and _NOT_THE_KEY.search(f"{said.code} {said.message}"):  # noqa: PLR2004
        return _K.REQUEST
    if _is_no_model(said, status):
        return _K.REQUEST
    if status in _STATUSES:
        return _STATUSES[status]
    if status >= 500:  # noqa: PLR2004 - 502, 503, 504, 52x, 529: something before the server
        return _K.OVERLOADED
    return _K.REQUEST if status >= 400 else _K.CONNECT  # noqa: PLR2004


def _code(said: Said, status: int | None) -> str | None:
    return MODEL_NOT_FOUND if _is_no_model(said, status) else said.code


def _is_no_model(said: Said, status: int | None) -> bool:
    if said.code in {MODEL_NOT_FOUND, "DeploymentNotFound"}:
        return True
    return status in {400, 404} and _NO_MODEL.search(said.message) is not None


def excerpt(data: bytes, secret: str) -> str:
    """Give the beginning of what a server sent, as one line for a person, without the key."""
    text = data[:EXCERPT_BYTES].decode("utf-8", "replace")
    if len(data) >= EXCERPT_BYTES and secret:
        # What the cut left of a key would not be known as one any more.
        text = text.replace(secret, "***")[: -len(secret)]
    return clean(text, secret)


def clean(text: str, secret: str = "") -> str:
    """Make a server's text one line for a person: no key, no tags, no control characters."""
    if len(secret) > 3:  # noqa: PLR2004 - a shorter one is a placeholder
        text = text.replace(secret, "***")
    if "<" in text and re.search(r"<\s*(?:!doctype|html|body|head)", text, re.IGNORECASE):
        text = _TAGS.sub(" ", text)
    text = _SECRETS.sub("***", text)
    text = _CONTROL.sub(" ", text).strip()
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def _status(value: object) -> int | None:
    if isinstance(value, str) and value.isdigit():
        value = int(value[:4])
    is_status = isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599  # noqa: PLR2004
    return value if is_status else None  # type: ignore[return-value]  # an int, as just checked
