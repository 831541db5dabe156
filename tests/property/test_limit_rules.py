"""The rules of limits, whatever comes: rates hold, limits keep bounds, headers do no harm."""

from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.limits.aimd import Aimd
from worker.limits.bucket import BURST_S, Bucket
from worker.limits.quota import MAX_RESET_S, MOST, read_quota, read_span

steps = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 20)), min_size=1, max_size=60)


#: On a busy machine the first example alone may take seconds.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(per_minute=st.integers(1, 100_000), steps=steps, size=st.integers(1, 5000))
def test_a_bucket_never_gives_more_than_its_rate(
    per_minute: int, steps: list[tuple[float, int]], size: int
) -> None:
    """Over any time: the rate, a second's worth, and the one that may overdraw it."""
    now, taken = 0.0, 0
    bucket = Bucket(per_minute, now=now)

    for pause, wanted in steps:
        now += pause
        granted = min(wanted, int(bucket.room(size, now=now)))
        bucket.take(size * granted, now=now)
        taken += size * granted

        full = max(2.0, BURST_S * per_minute / 60)
        assert taken <= now * per_minute / 60 + full + size + 1e-3


@patient
@given(per_minute=st.integers(1, 100_000), size=st.integers(1, 5000), used=st.integers(0, 50_000))
def test_what_a_bucket_says_of_the_wait_is_enough(per_minute: int, size: int, used: int) -> None:
    """Whoever waits so long finds room for one, however large."""
    bucket = Bucket(per_minute, now=0.0)
    bucket.take(used, now=0.0)

    wait = bucket.wait_s(size, now=0.0)

    if wait > 0:
        assert bucket.room(size, now=0.9 * wait) == 0
    assert bucket.room(size, now=wait + 1e-6) >= 1


@patient
@given(
    most=st.integers(1, 5000),
    events=st.lists(
        st.tuples(st.sampled_from(["answered", "cut", "restart", "bound"]), st.integers(0, 9000)),
        max_size=200,
    ),
)
def test_the_limit_stays_between_one_and_the_most(most: int, events: list[tuple[str, int]]) -> None:
    """An endpoint is never left alone for good, and never asked beyond what is allowed."""
    aimd = Aimd(most)
    doing: dict[str, Callable[[int, int], object]] = {
        "answered": lambda _now, n: aimd.answered(held=n),
        "cut": lambda now, n: aimd.cut(asked_at=now, now=now, held=n),
        "restart": lambda _now, _n: aimd.restart(),
        "bound": lambda _now, n: aimd.bound(max(1, n)),
    }

    for now, (event, number) in enumerate(events, start=1):
        doing[event](now, number)

        assert 1 <= aimd.limit <= aimd.most


@patient
@given(most=st.integers(1, 5000), down=st.booleans())
def test_an_endpoint_that_answers_gets_all_again(most: int, down: bool) -> None:
    """Within some rounds of accepted requests, at every size."""
    aimd = Aimd(most)
    aimd.cut(asked_at=1.0, now=1.0, held=most)
    if down:
        aimd.restart()

    rounds = 0
    while aimd.limit < most:
        for _ in range(math.ceil(aimd.limit)):
            aimd.answered(held=int(aimd.limit))
        rounds += 1
        assert rounds <= 30


words = st.one_of(
    st.text(max_size=80),
    st.integers(-(10**12), 10**12).map(str),
    st.floats().map(str),
    st.sampled_from(["1s", "6m0s", "20ms", "1h2m", "0", "-1", "nan", "inf", "1e400", "٣", "1_0"]),
)
names = st.builds(
    "x-ratelimit-{}-{}".format,
    st.sampled_from(["limit", "remaining", "reset"]),
    st.sampled_from(["requests", "tokens"]),
)


@patient
@given(headers=st.dictionaries(names, words))
def test_no_header_makes_a_limit_that_is_none(headers: dict[str, str]) -> None:
    """They are the endpoint's, and it may be anybody's: what is taken is a number within bounds."""
    quota = read_quota(headers)

    for allowed in filter(None, (quota.requests, quota.tokens)):
        assert 0 < allowed.per_minute <= MOST
        assert allowed.remaining is None or 0 <= allowed.remaining <= MOST


@patient
@given(text=words)
def test_every_span_is_within_a_day(text: str) -> None:
    """What is none is None."""
    span = read_span(text)

    assert span is None or 0 <= span <= MAX_RESET_S
