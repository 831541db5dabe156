"""Limits: what an endpoint says, what requests use, how often it is asked again."""

from __future__ import annotations

import pytest

from pipeline.ports import Ask, AskOn
from worker.limits.aimd import Aimd
from worker.limits.book import Asked, Book
from worker.limits.bucket import Bucket
from worker.limits.quota import Allowed, Quota, read_quota
from worker.limits.rates import Rates
from worker.limits.reckoning import FIRST, Reckoning
from worker.limits.retries import FLOOR, SHARE, WINDOW_S, RetryBudget


def said(limit: str, remaining: str | None = None, reset: str | None = None) -> Allowed | None:
    """Give what is made of headers on requests."""
    headers = {"x-ratelimit-limit-requests": limit}
    if remaining is not None:
        headers["x-ratelimit-remaining-requests"] = remaining
    if reset is not None:
        headers["x-ratelimit-reset-requests"] = reset
    return read_quota(headers).requests


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "per_minute"),
    [
        ("600", None, None, 600),
        ("600", "599", "100ms", 600),
        ("600", "599", "6m0s", 600),  # a window that ends at once looks like this, too
        ("14400", "4400", "16h40m", 10),  # a day's
        ("10", "4", "600ms", 600),  # a second's
        ("600", "soon", "later", 600),
    ],
)
def test_a_limit_is_a_minutes_unless_it_shows_otherwise(
    limit: str, remaining: str | None, reset: str | None, per_minute: float
) -> None:
    """By how long it takes to be full again."""
    allowed = said(limit, remaining, reset)

    assert allowed is not None
    assert allowed.per_minute == pytest.approx(per_minute)


@pytest.mark.parametrize("limit", ["0", "-1", "", "nan", "inf", "1e12", "many", "9" * 400])
def test_a_limit_that_makes_no_sense_is_none(limit: str) -> None:
    """Some endpoints send 0 or -1 for "I do not know"."""
    assert said(limit) is None


def test_more_left_than_there_is_is_ignored() -> None:
    """The limit may still be right."""
    assert said("10", "11") == Allowed(per_minute=10, remaining=None)


def test_what_a_person_set_counts_more_than_what_is_learnt() -> None:
    """But nobody takes more than is left."""
    bucket = Bucket(600, now=0.0)
    bucket.room(1, now=10.0)  # a second's worth has gathered

    bucket.learn(60_000, remaining=3, now=10.0)

    assert bucket.per_minute == 600
    assert bucket.room(1, now=10.0) == 3


def test_nothing_is_owed_from_before_there_was_a_limit() -> None:
    """A thousand requests were made before the endpoint said how many it takes."""
    bucket = Bucket(None, now=0.0)
    bucket.take(1000, now=1.0)

    bucket.learn(60, remaining=None, now=2.0)

    assert bucket.room(1, now=2.0) == 1


def test_sharers_have_the_rate_together() -> None:
    """Each of four buckets gives a quarter."""
    bucket = Bucket(2400, now=0.0)
    bucket.sharers = 4

    given = 0
    for tenth in range(600):
        room = int(bucket.room(1, now=tenth / 10))
        bucket.take(room, now=tenth / 10)
        given += room

    assert given == pytest.approx(600, abs=12)


def test_a_burst_of_refusals_is_one_cut() -> None:
    """What was asked before the cut tells of the time before it."""
    aimd = Aimd(64)

    first = aimd.cut(asked_at=10.0, now=11.0, held=64)
    others = [aimd.cut(asked_at=asked_at, now=12.0, held=60) for asked_at in (10.1, 10.9, 11.0)]
    later = aimd.cut(asked_at=11.1, now=12.0, held=30)

    assert (first, others, later) == (True, [False] * 3, True)
    assert aimd.limit == 15


def test_what_is_not_used_proves_nothing() -> None:
    """A limit is raised only by those that fill it."""
    aimd = Aimd(64)
    aimd.cut(asked_at=1.0, now=1.0, held=64)

    for _ in range(100):
        aimd.answered(held=3)

    assert aimd.limit == 32


def test_jobs_that_go_on_come_before_new_ones() -> None:
    """Of three requests that may be made now, two go to them."""
    book = Book(Rates(requests_per_minute=180), slots=8, now=0.0)

    grant = book.ask(Asked(held=2, again=2, wanted=6), now=9.0)  # a second's worth is three
    later = book.ask(Asked(held=3, wanted=5), now=9.0)

    assert (grant.again, grant.claims) == (2, 1)
    assert later.claims == 0
    assert later.wait_s == pytest.approx(1 / 3)


def test_tokens_limit_requests_by_what_they_are_reckoned_to_use() -> None:
    """One may be larger than the bucket; what follows waits until that is paid back."""
    book = Book(Rates(tokens_per_minute=60_000), slots=8, now=0.0)

    asked = Asked(held=0, wanted=8, size=5000)
    grants = [book.ask(asked, now=now).claims for now in (1.0, 5.4, 5.6)]

    assert grants == [1, 0, 1]


def test_without_rates_only_the_slots_count() -> None:
    """Nothing is known against the endpoint."""
    book = Book(Rates(), slots=8, now=0.0)

    assert book.ask(Asked(held=3, wanted=9), now=0.0).claims == 5
    assert not book.has_rates


def test_a_learnt_rate_is_shared_like_a_set_one() -> None:
    """Half of what is left is ours, too."""
    book = Book(Rates(), slots=8, now=0.0)
    book.share(2)

    book.learn(Quota(requests=Allowed(per_minute=600, remaining=4)), now=5.0)

    assert book.requests.room(1, now=5.0) <= 2
    assert book.requests.room(1, now=60.0) == 5


def test_requests_are_reckoned_by_prompt_and_limit() -> None:
    """Until the first has ended its limit, or a guess, stands for the answer."""
    reckoning = Reckoning()
    ask = Ask(body={"messages": [{"role": "user", "content": "x" * 396}]})  # and its role

    assert reckoning.reckon(ask) == 100 + FIRST
    assert reckoning.reckon(Ask(body={**ask.body, "max_tokens": 50})) == 150
    assert reckoning.reckon(Ask(body=ask.body, limit=7)) == 107
    assert reckoning.reckon(Ask(body=ask.body, limit=7, turn=AskOn(text="y" * 400, tail=""))) == 207


def test_what_requests_use_is_learnt() -> None:
    """The usual answer stands for one without a limit."""
    reckoning = Reckoning()
    ask = Ask(body={"prompt": "x" * 400})

    for _ in range(5):
        reckoning.learn(prompt=100, output=300)

    assert reckoning.typical == 400
    assert reckoning.reckon(ask) == 400


def test_retries_are_a_share_of_the_requests() -> None:
    """A few always; beyond that a fifth of what is asked."""
    budget = RetryBudget()
    alone = sum(budget.may_retry(now=1.0) for _ in range(100))
    for _ in range(200):
        budget.request(now=2.0)

    among = sum(budget.may_retry(now=3.0) for _ in range(100))

    assert (alone, among) == (FLOOR, SHARE * 200)


def test_what_was_retried_a_minute_ago_is_forgotten() -> None:
    """The endpoint may be well by now."""
    budget = RetryBudget()
    while budget.may_retry(now=1.0):
        pass

    assert not budget.may_retry(now=WINDOW_S - 5)
    assert budget.may_retry(now=1.0 + WINDOW_S + 5)


def test_an_endpoint_that_is_well_again_gets_all_its_retries_soon() -> None:
    """Two thousand jobs that a restart cut off are asked for in ten rounds, not in an hour."""
    budget, left, rounds = RetryBudget(), 2000, 0
    while left > 0:
        rounds += 1
        admitted = 0
        while admitted < left and budget.may_retry(now=1.0):
            admitted += 1
            budget.request(now=1.0)
        for _ in range(admitted):
            budget.succeeded()
        left -= admitted

    assert rounds < 10


def test_a_failure_takes_back_what_successes_have_earned() -> None:
    """An endpoint that was well until now is asked no more often than any other that fails."""
    budget = RetryBudget()
    for _ in range(1000):
        budget.succeeded()
    budget.failed()

    assert sum(budget.may_retry(now=1.0) for _ in range(100)) == FLOOR
