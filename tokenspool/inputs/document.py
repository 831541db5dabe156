"""One line of JSON, taken strictly: what two readers could understand differently is refused.

The quick decoder decides; only a line that it refuses, or that looks odd, is read once more by the
slow one of the standard library, which knows how to say what is wrong and where.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

from tokenspool.errors import UsageError
from tokenspool.names import quoted

#: Far more than a request needs, far less than what overflows a reader's stack.
MAX_DEPTH = 100
_TOO_LARGE = "a number in it is too large"

Document = dict[str, object]

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
#: Ways to write a key, or a quote before a colon, that counting bytes does not see.
_ODD = re.compile(rb'"[ \t\r]+:|\\u00(?:22|3[aA])').search
_HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}").search


def document(raw: bytes) -> Document:
    """Give the JSON object that is this line; raises `UsageError` saying what is wrong with it."""
    try:
        value = _decode(raw)
    except RecursionError as error:
        raise UsageError(_too_deep()) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(_explain(raw, str(error))) from error
    if not isinstance(value, dict):
        msg = f"a line is a JSON object; this one is {json_kind(value)}"
        raise UsageError(msg)
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and not _is_shallow(value):
        raise UsageError(_too_deep())
    # Decoding keeps the last of two equal keys: then what is written back has a colon less.
    keys = raw.count(b'":')
    if keys != _encode(value).count(b'":') or _is_odd(raw, keys):
        _refuse_duplicates(raw)
    return value


def written(doc: object) -> bytes:
    """Give a program's mapping as the line it would be; `UsageError` for what JSON cannot say."""
    if not isinstance(doc, Mapping):
        msg = f"a job is a mapping of fields; this one is of the type {type(doc).__name__}"
        raise UsageError(msg)
    try:
        # Not msgspec, which writes a NaN as null and a date as a string without a word.
        return json.dumps(dict(doc), allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as error:
        raise UsageError(_too_deep()) from error
    except UnicodeEncodeError as error:
        msg = "it has half of a surrogate pair in it, which is no character"
        raise UsageError(msg) from error
    except (TypeError, ValueError) as error:
        msg = f"it cannot be written as JSON: {str(error)[:200]}"
        raise UsageError(msg) from error


def _is_odd(raw: bytes, keys: int) -> bool:
    """Tell whether there may be keys that counting does not see."""
    # Most lines need no closer look: no escapes, and every colon stands right behind a quote.
    return (b"\\" in raw or raw.count(b":") != keys) and _ODD(raw) is not None


def json_kind(value: object) -> str:
    """Name the JSON type of a value, with its article.

    >>> json_kind([1])
    'an array'
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _too_deep() -> str:
    return f"it is nested deeper than {MAX_DEPTH} levels"


def _is_shallow(value: object) -> bool:
    """Tell whether the value is nested at most `MAX_DEPTH` deep, without recursion of our own."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child for outer in level for child in _children(outer) if isinstance(child, dict | list)
        ]
        if not level:
            return True
    return False


def _children(value: object) -> Sequence[object]:
    return (
        list(value.values())
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else ()
    )


def _refuse_duplicates(raw: bytes) -> None:
    def unique(pairs: list[tuple[str, object]]) -> Document:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            msg = f"the key {quoted(twice)} is there twice; keep one"
            raise UsageError(msg)
        return found

    json.loads(raw, object_pairs_hook=unique)


def _explain(raw: bytes, reason: str) -> str:
    """Say what keeps a line from being JSON, and at which column."""
    try:
        text = raw.decode()
        json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return f"it is not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}"
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        return f"it is not JSON: {what[0].lower()}{what[1:]} at column {error.colno}"
    except RecursionError:
        return _too_deep()
    except (UsageError, ValueError) as error:
        return str(error) if isinstance(error, UsageError) else _TOO_LARGE
    if half := _HALF_A_PAIR(text):
        return f"it has half of a surrogate pair, {half[0]}, which is no character"
    return _TOO_LARGE if "out of range" in reason else f"it is not JSON: {reason}"


def _refuse_constant(name: str) -> NoReturn:
    msg = f"it is not JSON: {name} is no JSON number"
    raise UsageError(msg)
