"""The gate of one endpoint: how many streams it takes just now, and why none.

When an endpoint is down, busy or refuses the key, the endpoint is paused, not the jobs: 10,000 jobs
shall not burn their attempts on it. It comes back at one stream and doubles with every success. One
that was only busy gets half as many, and more again while it answers. How many requests and tokens
a minute it takes stands in its book.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.ports import Ask
from tokenspool.errors import ErrorKind, StreamError
from worker.limits.book import Asked, Book, Grant
from worker.limits.news import News
from worker.limits.quota import Quota, read_quota
from worker.limits.rates import Rates
from worker.limits.reckoning import Reckoning, prompt_tokens
from worker.limits.retries import RetryBudget

#: This many server errors in a row, without a success between, are the endpoint's fault.
SERVER_ERRORS = 5
#: Waits between tries of a paused endpoint, in seconds: it doubles up to the cap.
PROBE_S, PROBE_CAP_S = 0.5, 30.0
#: What the provider asks us to wait is believed up to this.
RETRY_AFTER_CAP_S = 3600.0
#: A job that goes on waits so long for its next request; longer, and it gives its slot to others.
PATIENCE_S = 2.0

_QUOTA = frozenset({"x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"})
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
    """Counts the streams of one endpoint and learns from how they go. Fulfils `ports.Gate`."""

    def __init__(
        self,
        slots: int,
        *,
        rates: Rates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin open, with room for every slot, or for what a person set."""
        self.slots = slots
        self.rates = rates or Rates()
        self._clock = clock
        self._book = Book(self.rates, slots=slots, now=clock())
        self._reckoning = Reckoning()
        self._retries = RetryBudget()
        #: Permits that are held: one for each job that runs or is being claimed.
        self.in_flight = 0
        #: Jobs that wait for another request within their claim, the first first.
        self._waiting: deque[asyncio.Future[None]] = deque()
        #: Told when somebody waits, or when there is something that others should know.
        self.wake: Callable[[], None] = lambda: None
        self._news = News()
        #: What the others were told last, if they share limits with us.
        self._told: int | None = None
        #: Is the limit that of all workers?
        self._is_shared = False
        self._workers = 1
        #: When it makes sense to ask for a permit again.
        self._permit_at = 0.0
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

    # --- how it stands -----------------------------------------------------------------------
    @property
    def limit(self) -> int:
        """Give how many streams it takes at once."""
        return int(self._book.aimd.limit)

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
        """How it stands, for all workers as far as we know."""
        wait = max(0.0, self._retry_at - self._clock()) if self._state in {"down", "busy"} else None
        limit = self.limit if self._is_shared else self.limit * self._workers
        if self.rates.max_in_flight is not None:
            limit = min(limit, self.rates.max_in_flight)
        return GateState(state=self._state, reason=self._reason, retry_in_s=wait, limit=limit)

    @property
    def wait_s(self) -> float | None:
        """Seconds until a permit may be had; None when that is not known."""
        at = max(self._permit_at, self._retry_at)
        wait = at - self._clock()
        return wait if wait > 0 and not self.is_refused else None

    def room(self) -> int:
        """Give how many streams may begin now; a paused endpoint is tried with one."""
        if self._state == "refused":
            return max(0, int(self._trial) - self.in_flight)
        if self._clock() < self._retry_at:
            return 0
        return max(0, self.limit - self.in_flight)

    # --- permits -----------------------------------------------------------------------------
    def take(self, wanted: int, *, workers: int = 1) -> int:
        """Grant permits from our own book: for those that wait, and up to `wanted` for claims.

        With several workers it is our share of what the endpoint takes.
        """
        now = self._clock()
        if self._is_shared:
            self._is_shared = False
            self._book.part(workers, now=now)
        self._workers = workers
        self._book.share(workers)
        return self._granted(self._book.ask(self._asked(wanted), now=now))

    def asks(self, wanted: int) -> tuple[Asked, News]:
        """Give what the book of all workers is asked, and the news for it."""
        news, self._news = self._news, News()
        asked = self._asked(wanted)
        self._told = asked.held
        return asked, news

    def accept(self, grant: Grant) -> int:
        """Take what the book of all workers grants; give the permits for claims."""
        self._is_shared = True
        before, aimd = self.limit, self._book.aimd
        aimd.take_over(grant.limit, most=grant.most)
        self.changed = self.changed or self.limit != before
        for bucket, rate in (
            (self._book.requests, grant.requests_per_minute),
            (self._book.tokens, grant.tokens_per_minute),
        ):
            if rate is not None and rate != bucket.per_minute:
                bucket.learn(rate, remaining=None, now=self._clock())
        until = self._clock() + grant.pause_s
        if grant.pause_s > 0 and until > self._retry_at:
            self._retry_at = until
            if self._state == "up":
                reason = "another worker was asked to wait"
                self._state, self._reason, self.changed = "busy", reason, True
        self._told = (self._told or 0) + grant.claims
        return self._granted(grant)

    def give(self, permits: int, *, unused: bool = False) -> None:
        """Give permits back: their jobs ended, or nothing was claimed for them."""
        self.in_flight -= permits
        if unused:
            self._unused(permits)
        if permits:
            self.wake()

    def retell(self, news: News) -> None:
        """Keep news that nobody heard for the next time."""
        self._news = news.then(self._news)

    def is_behind(self) -> bool:
        """Tell whether the others do not know yet what we hold, or somebody waits."""
        return self.in_flight != self._told or self._news.is_urgent or bool(self._waiting)

    @property
    def has_waiting(self) -> bool:
        """Whether jobs wait for another request."""
        return bool(self._waiting)

    def _asked(self, wanted: int) -> Asked:
        return Asked(
            held=self.in_flight,
            wanted=wanted,
            again=0 if self._clock() < self._retry_at else len(self._waiting),
            size=self._reckoning.typical,
        )

    def _granted(self, grant: Grant) -> int:
        now = self._clock()
        self._permit_at = now if grant.wait_s is None else now + grant.wait_s
        left = grant.again
        while left and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # whoever was cancelled in this moment is still in the row
                turn.set_result(None)
                left -= 1
        self.in_flight += grant.claims
        return grant.claims

    # --- what the engine asks and tells --------------------------------------------------------
    def may_retry(self) -> bool:
        """See the port."""
        if self._retries.may_retry(now=self._clock()):
            return True
        self._unused(1)
        return False

    async def again(self) -> bool:
        """See the port."""
        if not self.is_open or self._clock() < self._retry_at:
            return False
        if not self._book.has_rates:
            return True
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.wake()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await turn
        except TimeoutError:
            return False
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
        return True

    def asked(self, ask: Ask) -> int:
        """See the port."""
        self._retries.request(now=self._clock())
        if self._book.tokens.per_minute is None:
            return 0
        reckoned = self._reckoning.reckon(ask)
        self._use(reckoned - self._reckoning.typical)
        return reckoned

    def used(self, ask: Ask, *, reckoned: int, prompt: int | None, output: int | None) -> None:
        """See the port."""
        if output is None:
            self._use(-reckoned)
            return
        whole = prompt if prompt is not None else prompt_tokens(ask)
        if reckoned:
            self._use(whole + output - reckoned)
        self._reckoning.learn(prompt=whole, output=output)

    def answered(self, headers: Mapping[str, str] | None = None) -> None:
        """See the port."""
        if headers and not headers.keys().isdisjoint(_QUOTA):
            self._learn(read_quota(headers))
        if self._state != "up":
            if self._state == "refused":
                self._book.aimd.restart()
            self._state, self._reason, self.changed = "up", None, True
        self.down_since = None
        before = self.limit
        self._book.aimd.answered(held=self.in_flight)
        self._news.answered += 1
        self.changed = self.changed or self.limit != before

    def spoke(self) -> None:
        """See the port."""
        self._tries = self._server_errors = 0
        self._retries.succeeded()

    def failed(self, error: StreamError, *, asked_at: float | None = None) -> None:
        """See the port."""
        self._trial = False
        self._retries.failed()
        if error.kind is ErrorKind.AUTH or error.code == "model_not_found":
            self._state, self._reason, self.changed = "refused", error.message, True
            self._unknown_model = error.code == "model_not_found"
        elif error.kind in _DOWN:
            self._pause("down", error, asked_at)
        elif error.kind in _BUSY:
            self._pause("busy", error, asked_at)
        elif error.kind is ErrorKind.SERVER:
            self._server_errors += 1
            if self._server_errors >= SERVER_ERRORS:
                self._pause("down", error, asked_at)

    def reopen(self) -> None:
        """Let one request find out whether a refused endpoint takes us by now."""
        self._trial = self.is_refused

    def _pause(self, state: str, error: StreamError, asked_at: float | None) -> None:
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
        self._retry_at = self._news.pause_until = max(self._retry_at, now + wait)
        if state == "down":
            self._book.aimd.restart()
            self._news.restart = True
        else:
            self._cut(now if asked_at is None else asked_at, now)
        self.wake()

    def _cut(self, asked_at: float, now: float) -> None:
        self._book.aimd.cut(asked_at=asked_at, now=now, held=self.in_flight)
        news = self._news
        if news.cut_asked_at is None or asked_at > news.cut_asked_at:
            news.cut_asked_at = asked_at
        news.cut_held = max(news.cut_held, self.in_flight)

    def _learn(self, quota: Quota) -> None:
        self._book.learn(quota, now=self._clock())
        self._news.quota = quota

    def _unused(self, permits: int) -> None:
        """Put back what permits took of the rates: their requests are not made."""
        if not self._book.has_rates:
            return
        now, size = self._clock(), self._reckoning.typical
        self._book.requests.take(-permits, now=now)
        self._book.tokens.take(-permits * size, now=now)
        self._news.unused += permits
        self._news.used -= permits * size

    def _use(self, tokens: float) -> None:
        if tokens and self._book.tokens.per_minute is not None:
            self._book.tokens.take(tokens, now=self._clock())
            self._news.used += tokens
