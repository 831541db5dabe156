"""How long an endpoint asks us to wait."""

from __future__ import annotations

import pytest

from pipeline.sources.waiting import retry_after_s

AT = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT
DATE = "Wed, 21 Oct 2015 07:28:{:02} GMT"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7.5 "}, 7.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": DATE.format(9)}, 9.0),
        ({"retry-after": DATE.format(9), "date": DATE.format(5)}, 4.0),
        ({"retry-after": DATE.format(9), "date": "today"}, 9.0),
        ({"retry-after": "Tue, 20 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e12"}, 86_400.0),
        ({"retry-after": "Wed, 21 Oct 9999 07:28:00 GMT"}, 86_400.0),
        ({"retry-after": "later"}, None),
        ({}, None),
    ],
)
def test_headers_are_believed_within_reason(headers: dict[str, str], wait: float | None) -> None:
    """Seconds, milliseconds or a date, by the server's own clock; nonsense is no wait."""
    assert retry_after_s(headers, "", now=lambda: AT) == wait


@pytest.mark.parametrize(
    ("message", "wait"),
    [
        ("Rate limit reached. Please try again in 41.724s. Visit", 41.724),
        ("Please try again in 6m0s.", 360.0),
        ("please try again in 20ms", 0.02),
        ("Try again in 1 minute, 5 seconds", 65.0),
        ("Please retry after 2 hours.", 7200.0),
        ("Please retry in 1.5s", 1.5),
        ("try again in 1h2m3s", 3723.0),
        ("try again in a while", None),
        ("You tried 5 times", None),
        ("", None),
    ],
)
def test_a_sentence_is_the_last_resort(message: str, wait: float | None) -> None:
    """Without a header the message's own words are usable."""
    assert retry_after_s({}, message) == pytest.approx(wait)
    assert retry_after_s({"retry-after": "3"}, message) == 3
