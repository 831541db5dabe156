"""How often an endpoint is asked again after failures: a share of what it is asked at all."""

from __future__ import annotations

from collections import deque

#: A fifth of the requests of the last minute may be retries, and so many in any case.
SHARE, FLOOR = 0.2, 20
WINDOW_S = 60.0
#: An endpoint that has come back gets all its retries soon: each success in a row lets so many more
#: be made, which doubles them again and again. One failure, and the share alone counts.
PER_SUCCESS = 2
_PARTS = 12


class RetryBudget:
    """Counts the requests of the last minute in parts of five seconds. Pure: time is given."""

    def __init__(self) -> None:
        """Begin with none."""
        #: Number of the part, its requests, its retries.
        self._parts: deque[list[int]] = deque()
        self._streak = 0

    def request(self, *, now: float) -> None:
        """Count a request of whatever kind."""
        self._part(now)[1] += 1

    def may_retry(self, *, now: float) -> bool:
        """Tell whether one more retry is within the budget, and count it if so."""
        part = self._part(now)
        requests = sum(one[1] for one in self._parts)
        retries = sum(one[2] for one in self._parts)
        if retries >= FLOOR + SHARE * requests + PER_SUCCESS * self._streak:
            return False
        part[2] += 1
        return True

    def succeeded(self) -> None:
        """Learn that a request began to be answered."""
        self._streak += 1

    def failed(self) -> None:
        """Learn that one was not."""
        self._streak = 0

    def _part(self, now: float) -> list[int]:
        number = int(now * _PARTS / WINDOW_S)
        while self._parts and self._parts[0][0] <= number - _PARTS:
            self._parts.popleft()
        if not self._parts or self._parts[-1][0] != number:
            self._parts.append([number, 0, 0])
        return self._parts[-1]
