"""What follows a failed answer: again at once, later, or not at all. Decided purely."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tokenspool.errors import TRAITS, Cost, StreamError
from tokenspool.model import Ending, Failure, GaveUp, GivenBack, Postponed


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Backoff and allowances."""

    max_stalls: int = 5
    base_s: float = 0.5
    cap_s: float = 60.0

    def backoff_s(self, tries: int, jitter: Callable[[], float] = random.random) -> float:
        """Give the wait before try number `tries` (from 1): it doubles, half of it by chance."""
        wait = min(self.cap_s, self.base_s * 2.0 ** min(tries - 1, 30))
        return wait * (0.5 + 0.5 * jitter())

    def turn_s(self, jitter: Callable[[], float] = random.random) -> float:
        """Give the wait of a try for which its endpoint has failed too often already."""
        return self.cap_s * (0.1 + 0.2 * jitter())


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Go on at once, within the same claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a job stands after an answer, its own outcome counted in."""

    attempts: int
    max_attempts: int
    stalls: int
    gained: bool


def decide(  # noqa: PLR0911 - one return per line of the table that it is
    error: StreamError, standing: Standing, policy: RetryPolicy
) -> Ending | Again:
    """Decide by the error's traits; `Retry-After` is never undercut."""
    trait = TRAITS[error.kind]
    failure = Failure(kind=error.kind, message=error.message)
    if not trait.retry:
        return GaveUp(failure=failure, spends=trait.cost is Cost.ATTEMPT)
    least = error.retry_after_s or 0.0
    if trait.cost is Cost.ATTEMPT:
        spent = standing.attempts + 1
        if spent >= standing.max_attempts:
            return GaveUp(failure=failure, spends=True)
        delay = max(least, policy.backoff_s(spent))
        return Postponed(failure=failure, delay_s=delay, spends=True)
    if trait.cost is Cost.STALL:
        if standing.gained:
            return Again() if not least else Postponed(failure=failure, delay_s=least)
        if standing.stalls >= policy.max_stalls:
            return GaveUp(failure=failure, spends=True)
        return Postponed(failure=failure, delay_s=max(least, policy.backoff_s(standing.stalls)))
    # The endpoint is paused for everybody; the job goes back as if it had not been tried.
    return GivenBack(cause=error.kind.value)
