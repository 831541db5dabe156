"""What an endpoint says of its limits in the headers of an answer. Bounded; nonsense is ignored."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

#: More than anybody allows; a limit beyond it is none.
MOST = 1e9
#: A window may be a day at most.
MAX_RESET_S = 86_400.0
_LONG = 64
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """A limit, per minute, and what is left of it just now."""

    per_minute: float
    remaining: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What the endpoint said; None where it said nothing that makes sense."""

    requests: Allowed | None = None
    tokens: Allowed | None = None


def read_quota(headers: Mapping[str, str]) -> Quota:
    """Read the `x-ratelimit-*` headers; names are small letters.

    >>> read_quota({"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "599"})
    Quota(requests=Allowed(per_minute=600.0, remaining=599.0), tokens=None)
    """
    return Quota(requests=_allowed(headers, "requests"), tokens=_allowed(headers, "tokens"))


def _allowed(headers: Mapping[str, str], what: str) -> Allowed | None:
    limit = _number(headers.get(f"x-ratelimit-limit-{what}"))
    if not limit:  # some say 0 or -1 where they do not know
        return None
    remaining = _number(headers.get(f"x-ratelimit-remaining-{what}"))
    if remaining is not None and remaining > limit:
        remaining = None
    reset_s = read_span(headers.get(f"x-ratelimit-reset-{what}"))
    return Allowed(per_minute=_per_minute(limit, remaining, reset_s), remaining=remaining)


def _per_minute(limit: float, remaining: float | None, reset_s: float | None) -> float:
    """Give a limit per minute, as most mean it; or by the time that it takes to be full again.

    A limit of a second shows by filling faster, one of a day by filling slower, but that only when
    much of it is used: where a window ends at once, the first request of it looks the same.
    """
    if remaining is None or not reset_s or remaining >= limit:
        return limit
    used = limit - remaining
    by_reset = 60 * used / reset_s
    return min(MOST, by_reset if 2 * used >= limit else max(limit, by_reset))


def read_span(text: str | None) -> float | None:
    """Read `1s`, `6m0s`, `20ms` or a plain number of seconds; None when it is something else.

    >>> read_span("6m0s"), read_span("20ms"), read_span("1.5"), read_span("soon")
    (360.0, 0.02, 1.5, None)
    """
    if not text or len(text) > _LONG:
        return None
    if (plain := _number(text)) is not None:
        return min(plain, MAX_RESET_S)
    total, at = 0.0, 0
    while span := _SPAN.match(text, at):
        total += float(span[1]) * _UNITS[span[2]]
        at = span.end()
    return min(total, MAX_RESET_S) if at == len(text) else None


def _number(text: str | None) -> float | None:
    if not text or len(text) > _LONG:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and 0 <= number <= MOST else None
