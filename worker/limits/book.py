"""The book of one endpoint: what it may be asked, and what a worker tells of it.

`Book` is kept in the process. `shared.lua` keeps the same book in Redis for a fleet, by the same
rules; one test holds both to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from worker.limits.aimd import Aimd
from worker.limits.bucket import Bucket
from worker.limits.quota import Quota
from worker.limits.rates import Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a worker asks for, and what it holds already."""

    #: Permits that its jobs hold; each is for one request in flight.
    held: int
    #: Further permits, for jobs to be claimed.
    wanted: int = 0
    #: Further requests of jobs that hold their permit already.
    again: int = 0
    #: Tokens that each is reckoned to use.
    size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What it may do, and how the endpoint stands for all."""

    again: int
    claims: int
    limit: float
    most: float
    #: Permits held by all, the granted ones included.
    in_flight: int
    #: Seconds for which nothing new may be asked.
    pause_s: float = 0.0
    #: Seconds until it makes sense to ask for what was not granted; None: not known.
    wait_s: float | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


class Book:
    """How many at once, requests and tokens a minute: for one process. Pure: time is given."""

    def __init__(self, rates: Rates, *, slots: int, now: float) -> None:
        """Begin with what a person set; without it every slot may be used."""
        self._rates = rates
        self._slots = slots
        self.aimd = Aimd(rates.max_in_flight or slots)
        self.requests = Bucket(rates.requests_per_minute, now=now)
        self.tokens = Bucket(rates.tokens_per_minute, now=now)

    @property
    def has_rates(self) -> bool:
        """Whether there is a limit per minute."""
        return bool(self.requests.per_minute or self.tokens.per_minute)

    def share(self, workers: int) -> None:
        """Be one of so many books that have to keep the limits together."""
        self.requests.sharers = self.tokens.sharers = workers
        most = self._rates.max_in_flight
        self.aimd.bound(self._slots if most is None else max(1, most // workers))

    def part(self, workers: int, *, now: float) -> None:
        """Go on alone with a share of what all had together, and without a burst."""
        together, was_cut = self.aimd.limit, self.aimd.limit < self.aimd.most
        self.share(workers)
        most = self.aimd.most
        self.aimd.take_over(max(1.0, together // workers) if was_cut else most, most=most)
        self.requests.empty(now=now)
        self.tokens.empty(now=now)

    def learn(self, quota: Quota, *, now: float) -> None:
        """Take what the endpoint said of its limits."""
        for bucket, said in ((self.requests, quota.requests), (self.tokens, quota.tokens)):
            if said is not None:
                left = said.remaining
                share = None if left is None else left / bucket.sharers
                bucket.learn(said.per_minute, remaining=share, now=now)

    def ask(self, asked: Asked, *, now: float) -> Grant:
        """Grant what there is room for, and count it; further requests of running jobs first."""
        room = min(self.requests.room(1, now=now), self.tokens.room(asked.size, now=now))
        again = int(min(asked.again, room))
        free = max(0, math.floor(self.aimd.limit) - asked.held)
        claims = int(min(asked.wanted, free, room - again))
        self.requests.take(again + claims, now=now)
        self.tokens.take(asked.size * (again + claims), now=now)
        wait = max(self.requests.wait_s(1, now=now), self.tokens.wait_s(asked.size, now=now))
        is_short = again + claims < asked.again + min(asked.wanted, free)
        return Grant(
            again=again,
            claims=claims,
            limit=self.aimd.limit,
            most=self.aimd.most,
            in_flight=asked.held + claims,
            wait_s=wait if is_short else None,
            requests_per_minute=self.requests.per_minute,
            tokens_per_minute=self.tokens.per_minute,
        )
