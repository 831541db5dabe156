"""A limit of requests a minute, as a provider keeps it: 429 beyond it, and headers that say it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from simulator.refusal import Refusal


class Quota:
    """Fills evenly and begins almost used up, so that it can be seen at work at once."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._per_second = per_minute / 60
        self._clock = clock
        self._level = max(1.0, self._per_second)
        self._at = clock()

    def take(self) -> Mapping[str, str]:
        """Count a request; give the headers of its answer. Raises Refusal."""
        if not self._most:
            return {}
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._per_second)
        self._at = now
        if self._level < 1:
            wait = f"{(1 - self._level) / self._per_second:.3f}"
            message = f"Rate limit reached: {self._most} requests per minute"
            raise Refusal(429, message, retry_after=wait)
        self._level -= 1
        reset_ms = 1000 * (self._most - self._level) / self._per_second
        return {
            "x-ratelimit-limit-requests": str(self._most),
            "x-ratelimit-remaining-requests": str(int(self._level)),
            "x-ratelimit-reset-requests": f"{reset_ms:.0f}ms",
        }
