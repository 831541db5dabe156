"""The gate of one endpoint: how many streams it takes just now, and why none.

When an endpoint is down, busy or refuses the key, the endpoint is paused, not the jobs: 10,000 jobs
shall not burn their attempts on it. It comes back at one stream and doubles with every success.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tokenspool.errors import ErrorKind, StreamError

#: This many server errors in a row, without a success between, are the endpoint's fault.
SERVER_ERRORS = 5
#: Waits between tries of a paused endpoint, in seconds: it doubles up to the cap.
PROBE_S, PROBE_CAP_S = 0.5, 30.0
#: What the provider asks us to wait is believed up to this.
RETRY_AFTER_CAP_S = 3600.0

_DOWN = {ErrorKind.CONNECT}
_BUSY = {ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """How an endpoint stands, for the record and for people."""

    #: up, busy, down, refused.
    state: str
    reason: str | None = None
    retry_in_s: float | None = None
    limit: int | None = None


class Gate:
    """Counts the streams of one endpoint and learns from how they go."""

    def __init__(self, slots: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin open, with room for every slot."""
        self._slots = slots
        self._clock = clock
        self.limit = slots
        self.in_flight = 0
        self._state = "up"
        self._reason: str | None = None
        self._unknown_model = False
        #: May one request be made although it refused us?
        self._trial = False
        self._retry_at = 0.0
        self._tries = 0
        self._server_errors = 0
        #: Since when nothing at all went through, by the clock; None while it works.
        self.down_since: float | None = None
        self.changed = True

    @property
    def is_refused(self) -> bool:
        """Whether it refuses us for a reason that waiting does not mend."""
        return self._state == "refused"

    @property
    def is_unknown_model(self) -> bool:
        """Whether it refuses us because it does not have the model."""
        return self.is_refused and self._unknown_model

    @property
    def is_open(self) -> bool:
        """Whether it takes work."""
        return self._state == "up"

    @property
    def reason(self) -> str | None:
        """What it said when it was paused."""
        return self._reason

    @property
    def state(self) -> GateState:
        """How it stands."""
        wait = max(0.0, self._retry_at - self._clock()) if self._state in {"down", "busy"} else None
        return GateState(state=self._state, reason=self._reason, retry_in_s=wait, limit=self.limit)

    def room(self) -> int:
        """Give how many streams may begin now; a paused endpoint is tried with one."""
        if self._state == "refused":
            return max(0, int(self._trial) - self.in_flight)
        if self._clock() < self._retry_at:
            return 0
        return max(0, self.limit - self.in_flight)

    def answered(self) -> None:
        """Learn that it accepted a request."""
        if self._state != "up":
            self.limit = 1 if self._state == "refused" else self.limit
            self._state, self._reason, self.changed = "up", None, True
        self.down_since = None
        if self.limit < self._slots:
            self.limit = min(self._slots, 2 * self.limit)
            self.changed = True

    def spoke(self) -> None:
        """Learn that an accepted request began to be answered: it is well, not only there."""
        self._tries = self._server_errors = 0

    def failed(self, error: StreamError) -> None:
        """Learn how a request failed, be it with a status or in an answer that had begun."""
        self._trial = False
        if error.kind is ErrorKind.AUTH or error.code == "model_not_found":
            self._state, self._reason, self.changed = "refused", error.message, True
            self._unknown_model = error.code == "model_not_found"
        elif error.kind in _DOWN:
            self._pause("down", error, limit=1)
        elif error.kind in _BUSY:
            self._pause("busy", error, limit=max(1, self.in_flight // 2))
        elif error.kind is ErrorKind.SERVER:
            self._server_errors += 1
            if self._server_errors >= SERVER_ERRORS:
                self._pause("down", error, limit=1)

    def reopen(self) -> None:
        """Let one request find out whether a refused endpoint takes us by now."""
        self._trial = self.is_refused

    def _pause(self, state: str, error: StreamError, *, limit: int) -> None:
        now = self._clock()
        if self._state == "refused":
            return  # waiting does not mend that
        if state == "down" and self.down_since is None:
            self.down_since = now
        if self._state != "up" and now < self._retry_at and not error.retry_after_s:
            return  # one of the streams that were in flight when it was paused already
        self._tries += 1
        wait = min(PROBE_CAP_S, PROBE_S * 2 ** min(self._tries - 1, 20)) * random.uniform(0.8, 1.2)  # noqa: S311
        if error.retry_after_s:
            wait = min(error.retry_after_s, RETRY_AFTER_CAP_S)
        self._state, self._reason, self.changed = state, error.message, True
        self._retry_at = max(self._retry_at, now + wait)
        self.limit = limit
