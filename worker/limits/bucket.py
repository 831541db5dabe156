"""A bucket of permits that fills evenly: a rate per minute without bursts. Pure: time is given."""

from __future__ import annotations

import math

#: What gathers while nobody asks, in seconds of the rate: more would be a burst.
BURST_S = 1.0
#: What adding up in fractions may lose.
TINY = 1e-6


class Bucket:
    """So much a minute. What is larger than the bucket gets through, and is owed afterwards."""

    def __init__(self, per_minute: float | None, *, now: float) -> None:
        """Begin with room for one; None is without limit until one is learnt."""
        self._set = per_minute
        self._learnt: float | None = None
        #: How many share it, each with a bucket of its own.
        self.sharers = 1
        self._level = 1.0
        self._at = now

    @property
    def per_minute(self) -> float | None:
        """What counts: what a person set, else what the endpoint said; None: no limit."""
        return self._set or self._learnt

    @property
    def learnt(self) -> float | None:
        """What the endpoint said."""
        return self._learnt

    def learn(self, per_minute: float, *, remaining: float | None, now: float) -> None:
        """Take what the endpoint said: its limit, and what is left of it."""
        self._fill(now)
        self._learnt = per_minute
        if remaining is not None:
            self._level = min(self._level, remaining)

    def room(self, size: float, *, now: float) -> float:
        """Give how many of so much each may be taken; infinite without a limit."""
        if self.per_minute is None:
            return math.inf
        self._fill(now)
        need = self._need(size)
        if self._level < need - TINY:
            return 0
        return 1 + math.floor((self._level - need + TINY) / size)

    def take(self, amount: float, *, now: float) -> None:
        """Take; a negative amount is given back. Nothing is owed from before there was a limit."""
        if self.per_minute is None:
            return
        self._fill(now)
        self._level = min(self._level - amount, self._most)

    def empty(self, *, now: float) -> None:
        """Let nothing that was gathered count."""
        self._at, self._level = now, min(0.0, self._level)

    def wait_s(self, size: float, *, now: float) -> float:
        """Give the seconds until there is room for one of this size."""
        if self.per_minute is None:
            return 0.0
        self._fill(now)
        return max(0.0, self._need(size) - self._level) / self._per_second

    @property
    def _per_second(self) -> float:
        return (self.per_minute or 0.0) / 60 / self.sharers

    @property
    def _most(self) -> float:
        return max(2.0, BURST_S * self._per_second)

    def _need(self, size: float) -> float:
        """Give what has to be there for one; half of the bucket leaves room to come late."""
        return min(size, self._most / 2)

    def _fill(self, now: float) -> None:
        if self.per_minute is not None:
            gained = max(0.0, now - self._at) * self._per_second
            self._level = min(self._level + gained, self._most)
        self._at = now
