"""The books of a fleet, in Redis: one script call asks, tells and renews.

A permit is a lease: each call says how many the worker holds, and that word counts for
`LEASE_S`. So the permits of a worker that was killed come back by themselves, and after a flush
the next word of each worker restores the sums.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tokenspool.errors import UsageError
from tokenspool.model import Endpoint
from worker.limits.book import Asked, Grant
from worker.limits.news import News
from worker.limits.quota import Allowed
from worker.limits.rates import Rates

_log = logging.getLogger(__name__)
#: A worker's word counts so long; it is renewed several times within.
LEASE_S = 15.0
#: Longer is "away": a claim must not wait for limits. Less would take a busy loop for it.
TIMEOUT_S = 1.0
#: While it is away it is asked again so often; each time takes claims `TIMEOUT_S` when it hangs, so
#: the pauses double up to the cap.
AGAIN_S, AGAIN_CAP_S = 1.0, 15.0
#: A book that nobody opened for so long is thrown away.
KEEP_S = 3600.0
_PREFIX = "tokenspool:limits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Where an endpoint's book is, and what a person and this worker bring along."""

    name: str
    rates: Rates
    slots: int


def name_of(endpoint: Endpoint, key: str) -> str:
    """Give the name of an endpoint's book: a hash, from which nobody reads the key."""
    said = json.dumps([endpoint.url, endpoint.model, key])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


class SharedBooks:
    """The books in Redis, as one worker sees them."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = _PREFIX,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet. Raises UsageError when it is no URL of a Redis."""
        self._redis = _client(url)
        self._script = self._redis.register_script(_lua())
        self._prefix = prefix
        self._lease_s = lease_s
        self._clock = clock
        #: Random per start: nobody inherits the permits of a process that died.
        self._worker = secrets.token_hex(8)
        self._away_until: float | None = None
        self._again_s = AGAIN_S
        #: Books that have granted us something: one that does not know us has been lost.
        self._known: set[str] = set()

    @property
    def renew_s(self) -> float:
        """How often a worker has to say what it holds."""
        return self._lease_s / 5

    async def ask(
        self, page: Page, asked: Asked, news: News, *, leave: bool = False
    ) -> Grant | None:
        """Tell the news and ask; None while Redis is away. With `leave` nothing is held any more.

        A call whose answer is lost may have been carried out: what it granted is given back with
        the next word.
        """
        if self._away_until is not None and self._clock() < self._away_until:
            return None
        request = self._request(page, asked, news, leave=leave)
        # The braces keep the three on one node of a cluster.
        keys = [f"{self._prefix}:{{{page.name}}}{part}" for part in ("", ":held", ":alive")]
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):
                said = await self._script(keys=keys, args=[json.dumps(request)])
        except (RedisError, OSError) as error:
            if self._away_until is None:
                # Its message may hold the server's name, never a password.
                _log.warning("limits_not_shared reason=%s", type(error).__name__)
            self._away_until = self._clock() + self._again_s
            self._again_s = min(2 * self._again_s, AGAIN_CAP_S)
            return None
        if self._away_until is not None:
            _log.warning("limits_shared_again")
            self._away_until, self._again_s = None, AGAIN_S
        self._known.add(page.name)
        return _grant(json.loads(said))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()

    def _request(self, page: Page, asked: Asked, news: News, *, leave: bool) -> dict[str, Any]:
        now, rates, quota = self._clock(), page.rates, news.quota
        requests, tokens = quota.requests, quota.tokens
        cut_age = -1.0 if news.cut_asked_at is None else 1000 * max(0.0, now - news.cut_asked_at)
        return {
            "worker": self._worker,
            "lease": 0 if leave else 1000 * self._lease_s,
            "keep": int(1000 * KEEP_S),
            "slots": 0 if leave else page.slots,
            "most": rates.max_in_flight or 0,
            "rpm": rates.requests_per_minute or 0,
            "tpm": rates.tokens_per_minute or 0,
            "known": page.name in self._known,
            "grace": 1000 * self.renew_s,
            "held": 0 if leave else asked.held,
            "wanted": asked.wanted,
            "again": asked.again,
            "size": asked.size,
            "answered": news.answered,
            "cut_age": cut_age,
            "cut_held": news.cut_held,
            "restart": news.restart,
            "pause": 1000 * max(0.0, news.pause_until - now),
            "used": news.used,
            "unused": news.unused,
            "learnt_rpm": requests.per_minute if requests else 0,
            "learnt_tpm": tokens.per_minute if tokens else 0,
            "left_requests": _left(requests),
            "left_tokens": _left(tokens),
        }


def _client(url: str) -> Redis:
    try:
        client = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            # The client's own ten tries with pauses would hold up a claim.
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        # Unknown options show here; it does not connect.
        client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (RedisError, TypeError, ValueError):
        # What they say may hold the password.
        msg = (
            "the URL of the Redis for limits (limits_url, else broker_url) cannot be used:"
            " set limits_url to one like redis://127.0.0.1:6379/0"
        )
        raise UsageError(msg) from None
    return client


def _left(allowed: Allowed | None) -> float:
    return -1.0 if allowed is None or allowed.remaining is None else allowed.remaining


def _grant(said: Mapping[str, float]) -> Grant:
    return Grant(
        again=int(said["again"]),
        claims=int(said["claims"]),
        limit=said["limit"],
        most=said["most"],
        in_flight=int(said["in_flight"]),
        pause_s=said["pause"] / 1000,
        wait_s=None if said["wait"] < 0 else said["wait"] / 1000,
        requests_per_minute=said["rpm"] or None,
        tokens_per_minute=said["tpm"] or None,
    )


def _lua() -> str:
    return resources.files(__package__).joinpath("shared.lua").read_text(encoding="utf-8")
