"""How long a worker with a broker waits for hints before it claims of its own accord.

A worker that claims at once would be right too, but then nobody could see in Celery what runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: There was work for so many seconds, and no hint at all: the broker is away, or has forgotten.
UNHINTED_S = 2.0
#: Hints come, but for so many seconds there was work and a slot free all the same.
STARVED_S = 5.0


class Patience:
    """Remembers since when there has been work that nobody brought."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with the first look."""
        self._clock = clock
        self._unhinted_since: float | None = None
        self._starved_since: float | None = None

    def saw(self, *, work: bool, free: bool) -> bool:
        """Learn what a look found; True when that is new: a hint may only have to be sent."""
        now, fresh = self._clock(), False
        if not work:
            self._unhinted_since = self._starved_since = None
        elif free:
            fresh = self._starved_since is None
            self._unhinted_since = now if self._unhinted_since is None else self._unhinted_since
            self._starved_since = now if fresh else self._starved_since
        else:
            # Whoever fills its slots without hints shall not begin to wait with every job's end.
            self._starved_since = None
        return fresh

    def met(self) -> None:
        """Learn that a hint found a free slot."""
        self._unhinted_since = None

    @property
    def is_over(self) -> bool:
        """Whether to claim without a hint."""
        now = self._clock()
        if self._starved_since is not None and now - self._starved_since >= STARVED_S:
            return True
        return self._unhinted_since is not None and now - self._unhinted_since >= UNHINTED_S
