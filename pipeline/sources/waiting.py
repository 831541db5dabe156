"""How long an endpoint asks us to wait: headers, dates and sentences, within reason."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

#: Quotas are renewed daily at most; what asks for more is nonsense and means: at most this.
MAX_WAIT_S = 86_400.0

_SENTENCE = re.compile(r"\bretry (?:in|after) |\btry again (?:in|after) ", re.IGNORECASE)
_SPAN = re.compile(
    r"(\d+(?:\.\d+)?) ?(milliseconds?|ms|minutes?|min|m|seconds?|secs?|s|hours?|h|days?|d)?"
    r"(?![a-z])[ ,]*",
    re.IGNORECASE,
)
_UNITS = {"mil": 0.001, "ms": 0.001, "m": 60.0, "s": 1.0, "h": 3600.0, "d": 86_400.0}


def retry_after_s(
    headers: Mapping[str, str], message: str, *, now: Callable[[], float] = time.time
) -> float | None:
    """Give the seconds to wait from now; None when nothing sensible was said."""
    if (wait := _seconds(headers.get("retry-after-ms"), scale=0.001)) is not None:
        return wait
    after = headers.get("retry-after")
    if (wait := _seconds(after)) is not None:
        return wait
    if after and (wait := _until(after, headers.get("date"), now)) is not None:
        return wait
    return _sentence(message)


def _seconds(text: str | None, *, scale: float = 1.0) -> float | None:
    try:
        return _sensible(float(text or "") * scale)
    except ValueError:
        return None


def _until(text: str, date: str | None, now: Callable[[], float]) -> float | None:
    """Read a date; the server's own clock counts where it tells the time."""
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        since = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        since = now()
    return _sensible(at - since)


def _sentence(message: str) -> float | None:
    """Read "Please try again in 1m41.7s": the last resort, and a usable one."""
    begin = _SENTENCE.search(message)
    if begin is None:
        return None
    total, at = 0.0, begin.end()
    while span := _SPAN.match(message, at):
        unit = (span[2] or "s").lower()
        total += float(span[1]) * next(s for u, s in _UNITS.items() if unit.startswith(u))
        at = span.end()
    return _sensible(total)


def _sensible(seconds: float) -> float | None:
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    return min(seconds, MAX_WAIT_S)
