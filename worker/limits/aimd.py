"""How many requests an endpoint takes at once: found out by asking for more until it says no.

Additive increase, multiplicative decrease, as networks do it. Pure: time is given.
"""

from __future__ import annotations

import math

#: A round trip's worth of accepted requests raises the limit by this part of the most.
STEP = 1 / 16


class Aimd:
    """Begins at the most, halves when the endpoint is too busy, and grows again while it answers.

    After `restart` it doubles with every answer, up to where it was known to work.
    """

    def __init__(self, most: int) -> None:
        """Begin at the most that may ever be."""
        self.most: float = most
        self.limit: float = most
        self._threshold: float = most
        self._cut_at = -math.inf

    def answered(self, *, held: int) -> None:
        """Learn that a request was accepted while so many were in flight."""
        if self.limit < self._threshold:
            self.limit = min(2 * self.limit, self._threshold)
        elif 2 * held >= self.limit:  # what is not used proves nothing
            self.limit += max(1.0, STEP * self.most) / self.limit
        self.limit = min(self.limit, self.most)

    def cut(self, *, asked_at: float, now: float, held: int) -> bool:
        """Learn that a request was refused as too many; False when that is no news.

        Requests that were sent before the last cut tell of the time before it: a burst of
        refusals is one.
        """
        if asked_at <= self._cut_at:
            return False
        self.limit = self._threshold = max(1.0, min(self.limit, held) / 2)
        self._cut_at = now
        return True

    def restart(self) -> None:
        """Begin at one: nothing at all went through."""
        self._threshold = max(self._threshold, self.limit)
        self.limit = 1.0

    def take_over(self, limit: float, *, most: float) -> None:
        """Stand where others have brought it."""
        self.most, self.limit = most, min(most, limit)
        self._threshold = self.limit

    def bound(self, most: float) -> None:
        """Take another most; what was never cut grows with it."""
        if self.limit >= self.most:
            self.limit = most
        if self._threshold >= self.most:
            self._threshold = most
        self.most = most
        self.limit = min(self.limit, most)
        self._threshold = min(self._threshold, most)
