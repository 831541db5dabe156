from __future__ import annotations

import itertools
import time

import pytest

from simulator.text import Document


def test_the_same_seed_and_key_give_the_same_text() -> None:
    """A text is a pure function: two documents that share nothing else are equal."""
    one, other = Document(7, 42), Document(7, 42)

    assert one.text(2000) == other.text(2000)


def test_a_text_never_changes_between_versions() -> None:
    """The beginning is written down here: who changes it breaks comparisons between machines."""
    text = Document(0, 1).text(9).decode()

    assert text == "1. It no❤️ island compass łódź señor þing"


@pytest.mark.parametrize(("seed", "key"), [(8, 42), (7, 43)])
def test_another_seed_or_key_gives_another_text(seed: int, key: int) -> None:
    """Nothing but their first number is alike."""
    one, other = Document(7, 42).text(500), Document(seed, key).text(500)

    assert one[:64] != other[:64]
    assert one[64:] != other[64:]


def test_a_shorter_text_is_the_beginning_of_a_longer_one() -> None:
    """The length is no part of what decides the words."""
    document = Document(1, 2)

    assert document.text(1000).startswith(document.text(63))


def test_a_token_can_be_had_without_those_before_it() -> None:
    """Token i is computed from i: also the forty-millionth, at once."""
    document = Document(1, 2)
    began = time.perf_counter()

    far = document.token(40_000_000)

    assert far == next(document.tokens(40_000_000))
    assert list(itertools.islice(document.tokens(100), 5)) == [
        document.token(number) for number in range(100, 105)
    ]
    assert time.perf_counter() - began < 1


def test_every_byte_of_a_text_can_be_gone_on_from() -> None:
    """Wherever a prefix ends, inside a token or a character, the rest is exactly the rest."""
    document = Document(3, 4)
    text = document.text(2000)
    assert len(text) > 4096

    for at in range(4097):
        place = document.place(text[:at])

        assert place is not None
        rest = place.rest + b"".join(itertools.islice(document.tokens(place.token), 40))
        assert text.startswith(text[:at] + rest[:100]), at


def test_what_is_no_prefix_is_found_out() -> None:
    """One wrong byte, anywhere, and the text is somebody else's."""
    document = Document(3, 4)
    text = bytearray(document.text(1500))

    for at in (0, 1, 63, 1000, len(text) - 1):
        wrong = text.copy()
        wrong[at] ^= 1

        assert document.place(bytes(wrong)) is None, at


def test_texts_have_what_readers_trip_over() -> None:
    """Several scripts, joined emoji cut in two, line separators, and all that JSON escapes."""
    tokens = [
        token.decode()
        for key in range(40)
        for token in itertools.islice(Document(0, key).tokens(), 2000)
    ]
    text = "".join(tokens)

    wanted = ("the", "река", "και", "的", "في", "में", "\u2028", "\u0085", '"', "\\", "\t", "\n\n")
    assert [part for part in wanted if part not in text] == []
    assert any(token.endswith("\u200d") for token in tokens)
    assert "👩\u200d🚀" in text


def test_no_block_of_prose_is_said_twice() -> None:
    """So an overlap that a client removes is one that was really there."""
    blocks = Document(5, 6).text(64 * 5000).split(b"\n\n")

    numbered = [block for block in blocks if block[:1].isdigit()]
    assert len(set(numbered)) == len(numbered) > 4900


def test_a_refrain_says_its_opening_again() -> None:
    """Between the verses stands the opening, to the byte, and verses differ."""
    text = Document(5, 6, shape="refrain").text(64 * 6)
    opening = Document(5, 6, shape="refrain").text(64)

    assert len(opening) > 64
    assert text.count(opening) == 3
    assert text.startswith(opening)
    verses = text.split(opening)[1:]
    assert len(set(verses)) == 3


def test_a_refrain_can_be_gone_on_from_everywhere() -> None:
    """Repetition does not confuse where a prefix ends."""
    document = Document(5, 6, shape="refrain")
    text = document.text(64 * 8)

    for at in range(0, 2000, 7):
        place = document.place(text[:at])

        assert place is not None
        rest = place.rest + b"".join(itertools.islice(document.tokens(place.token), 20))
        assert text.startswith(text[:at] + rest[:50])
