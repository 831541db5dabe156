from __future__ import annotations

import itertools

import pytest

from simulator.sampled import Sampled, check_sampled

TOKENS = 150


def said(salt: int = 0, *, start: int = 0) -> bytes:
    """Give one sample's text, or the end of it."""
    return b"".join(itertools.islice(Sampled(0, 1, salt=salt).tokens(start), TOKENS - start))


def test_a_whole_answer_is_fine() -> None:
    """Every sample is a text that nothing is wrong with."""
    for salt in range(20):
        assert check_sampled(said(salt).decode(), tokens=TOKENS) == []


def test_samples_differ_in_words_and_agree_in_indexes() -> None:
    """As from a model that samples."""
    one, other = said(1).split(), said(2).split()

    different = sum(a != b for a, b in zip(one, other, strict=True))
    assert different > TOKENS * 0.9
    assert [a.split("·".encode())[1] for a in one] == [b.split("·".encode())[1] for b in other]


def test_any_cut_is_completed_by_any_sample() -> None:
    """Cut inside a word, an index, a character: another sample joins exactly."""
    text = said()

    for at in range(len(text)):
        other = Sampled(0, 1, salt=at + 1)
        place = other.place(text[:at])

        assert place is not None, text[:at]
        rest = itertools.islice(other.tokens(place.token), TOKENS - place.token)
        joined = text[:at] + place.rest + b"".join(rest)
        assert check_sampled(joined.decode(), tokens=TOKENS) == [], at


def test_a_stripped_cut_gets_its_white_space_back() -> None:
    """Clients strip what they send; the white space is then said again, and only it."""
    text = said()

    for at in range(len(text)):
        stripped = text[:at].rstrip()
        place = Sampled(0, 1, salt=9).place(stripped)

        assert place is not None
        joined = stripped + place.rest + said(9, start=place.token)
        assert check_sampled(joined.decode(), tokens=TOKENS) == [], at


def test_seams_upon_seams_are_fine() -> None:
    """A text joined of ten samples is as good as one."""
    text = said()[:100]
    for salt in range(1, 10):
        other = Sampled(0, 1, salt=salt)
        place = other.place(text)
        assert place is not None
        text += place.rest + b"".join(itertools.islice(other.tokens(place.token), 12))[:91]

    assert check_sampled(text.decode(errors="ignore"), whole=False) == []


@pytest.mark.parametrize("size", [1, 2, 3, 9, 60])
def test_the_check_sees_what_is_missing(size: int) -> None:
    """Any run of characters that is left out is a problem."""
    text = said().decode()

    for at in range(len(text) - size):
        assert check_sampled(text[:at] + text[at + size :], tokens=TOKENS) != [], at


@pytest.mark.parametrize("size", [1, 2, 3, 9, 60])
def test_the_check_sees_what_is_doubled(size: int) -> None:
    """Any run of characters that is said twice is a problem."""
    text = said().decode()

    for at in range(len(text) - size):
        assert check_sampled(text[: at + size] + text[at:], tokens=TOKENS) != [], at


def test_the_check_sees_an_answer_anew() -> None:
    """Another sample from zero behind a text is no continuation."""
    text = said()[:500].rsplit(b" ", 1)[0] + b" "

    problems = check_sampled((text + said(3)).decode())

    assert "doubled" in problems[0]


def test_the_check_sees_a_text_that_is_too_short() -> None:
    """A truncated text is whole by itself; only the number of its tokens gives it away."""
    text = "".join(part + " " for part in said().decode().split(" ")[:5])

    assert check_sampled(text) == []
    assert check_sampled(text, tokens=TOKENS) == [f"the text has 5 tokens, not {TOKENS}"]


def test_a_cut_text_is_fine_when_it_may_end_anywhere() -> None:
    """What was saved so far has no whole last token; with `whole` that is a problem."""
    text = said().decode()

    for at in range(60):
        assert check_sampled(text[:at], whole=False) == [], at
    assert check_sampled(text[:3]) != []


def test_the_check_stops_when_all_is_wrong() -> None:
    """Twenty problems say enough about a text of any size."""
    assert len(check_sampled("x·5 " * 10_000)) <= 25


def test_foreign_words_are_not_gone_on_from() -> None:
    """What is no sample's beginning is told from what is."""
    assert Sampled(0, 1).place(b"Once upon a time") is None
    assert Sampled(0, 1).place(b"Once upon a time " * 100) is None
