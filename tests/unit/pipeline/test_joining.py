"""Joining: what is swallowed, what is kept, and what is refused, however the bytes arrive."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.joining import (
    MIN_OVERLAP_BYTES,
    OPENING_BYTES,
    AnsweredAnewError,
    Asked,
    DiffersError,
    GoingOn,
    Join,
    Refused,
    Replaying,
    TailNotRepeatedError,
)

OPENING = b"Once upon a time there was a river, and in the river a stone sang of it."
TAIL = b"held-back words"


def joined(join: Join, pieces: Sequence[bytes]) -> bytes:
    """Feed an answer to its proper end and give what was let through."""

    async def feed() -> bytes:
        return b"".join([await join.feed(piece) for piece in pieces]) + join.finish()

    return asyncio.run(feed())


def going_on(tail: bytes = b"", *, opening: bytes = OPENING, proven: bool = True) -> GoingOn:
    """Make the join of a prefilled answer."""
    return GoingOn(opening=opening, tail=tail, proven=proven)


def replaying(saved: bytes) -> Replaying:
    """Make the join of an answer asked again."""

    async def fetch(start: int, stop: int) -> bytes:
        await asyncio.sleep(0)
        return saved[start:stop]

    return Replaying(fetch, len(saved))


def asked(end: bytes, *, opening: bytes = OPENING) -> Asked:
    """Make the join of an answer to "go on"."""
    return Asked(opening=opening, end=end)


# --- going on behind a prefix ---------------------------------------------------------------------
@pytest.mark.parametrize("proven", [False, True])
def test_a_continuation_passes_whole(proven: bool) -> None:
    """Without a tail nothing is swallowed, and the seam is as proven as the endpoint is."""
    join = going_on(proven=proven)

    assert joined(join, [b" and so", b" it went on"]) == b" and so it went on"
    assert (join.overlap, join.verified, join.decided) == (0, proven, True)


def test_nothing_is_passed_on_while_it_may_be_an_answer_anew() -> None:
    """The first bytes of the document are held until they differ from it."""
    join = going_on()

    async def feed() -> list[bytes]:
        return [await join.feed(b"Once upon"), await join.feed(b" another"), await join.feed(b"!")]

    assert asyncio.run(feed()) == [b"", b"Once upon another", b"!"]


def test_an_answer_anew_is_refused_whatever_the_profile_says() -> None:
    """The document's own opening is never appended behind the document."""
    join = going_on()

    with pytest.raises(AnsweredAnewError):
        joined(join, [OPENING[:10], OPENING[10:], b" More."])


def test_an_end_inside_the_opening_is_a_refrain() -> None:
    """An answer anew would be at least as long as what is saved, so a shorter one went on."""
    assert joined(going_on(), [OPENING[:20]]) == OPENING[:20]


def test_a_repeated_tail_is_swallowed_and_proves_the_seam() -> None:
    """What was held back is made again and must not stand twice."""
    join = going_on(TAIL, proven=False)

    assert joined(join, [TAIL[:4], TAIL[4:] + b" and more"]) == b" and more"
    assert (join.overlap, join.verified) == (len(TAIL), True)


def test_a_short_tail_proves_nothing() -> None:
    """Two bytes may be repeated by chance."""
    join = going_on(b"ab", proven=False)

    assert joined(join, [b"abc and on"]) == b"c and on"
    assert not join.verified


def test_a_tail_that_is_not_repeated_is_refused() -> None:
    """Nothing that skips the held-back words is appended."""
    with pytest.raises(TailNotRepeatedError):
        joined(going_on(TAIL), [b"held-back word, but another"])


@pytest.mark.parametrize("answer", [b"", b"held-back"])
def test_an_answer_that_ends_before_its_tail_is_refused(answer: bytes) -> None:
    """A proper end does not make up for words that were not repeated."""
    with pytest.raises(TailNotRepeatedError):
        joined(going_on(TAIL), [answer] if answer else [])


def test_an_answer_anew_instead_of_the_tail_is_known_as_such() -> None:
    """The two refusals lead to different ways on, so they are told apart."""
    with pytest.raises(AnsweredAnewError):
        joined(going_on(TAIL), [OPENING])


def test_behind_its_tail_a_refrain_is_no_answer_anew() -> None:
    """Who repeats the tail has shown the place: the opening may follow."""
    assert joined(going_on(TAIL), [TAIL + OPENING + b"!"]) == OPENING + b"!"


@pytest.mark.parametrize(
    ("tail", "answer", "kept"),
    [
        (b"\n\n", b"\n\nNext", b"Next"),
        (b"\n\n", b"Next", b"Next"),
        (b"\n\n", b"\nNext", b"Next"),
        (b" \n", b" \n\n\nNext", b"\n\nNext"),
        (b" \n", b"\nNext", b"\nNext"),
        (b"\n\n", b"\n", b""),
        (b"\n", b"\n" + OPENING[:9], OPENING[:9]),
    ],
)
def test_of_white_space_the_common_part_is_swallowed(
    tail: bytes, answer: bytes, kept: bytes
) -> None:
    """Models repeat the white space that was not sent, or part of it, or nothing."""
    assert joined(going_on(tail), [answer]) == kept


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("opening", [b"\n" + OPENING, b"\n\n" + OPENING, OPENING])
def test_an_answer_anew_is_seen_through_swallowed_white_space(opening: bytes, size: int) -> None:
    """A document that begins with white space, cut behind white space: anew is still anew."""
    answer = opening + b" There it lay."
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]

    with pytest.raises(AnsweredAnewError):
        joined(going_on(b"\n", opening=opening), pieces)


def test_white_space_that_is_repeated_proves_nothing_about_a_refrain() -> None:
    """The repeated line break could be chance; the opening behind it is not appended."""
    with pytest.raises(AnsweredAnewError):
        joined(going_on(b"\n"), [b"\n" + OPENING + b" More."])


# --- the same request again -----------------------------------------------------------------------
def test_a_replay_swallows_exactly_the_saved_bytes() -> None:
    """What is equal stands once; the rest is appended and the seam is proven."""
    join = replaying(OPENING)

    assert joined(join, [OPENING[:5], OPENING[5:] + b" More", b"."]) == b" More."
    assert (join.overlap, join.verified) == (len(OPENING), True)


def test_a_replay_that_ends_just_there_adds_nothing() -> None:
    """The saved text was whole all along."""
    assert joined(replaying(OPENING), [OPENING]) == b""


def test_a_long_replay_reads_the_saved_text_in_few_pieces() -> None:
    """A read of the database for every token would be slower than the model."""
    saved, reads = bytes(range(1, 256)) * 1000, list[tuple[int, int]]()

    async def fetch(start: int, stop: int) -> bytes:
        await asyncio.sleep(0)
        reads.append((start, stop))
        return saved[start:stop]

    join = Replaying(fetch, len(saved))
    tokens = [saved[at : at + 5] for at in range(0, len(saved), 5)]

    assert joined(join, [*tokens, b"more"]) == b"more"
    assert len(reads) < 20
    assert [start for start, _ in reads] == [0, *(stop for _, stop in reads[:-1])]


@pytest.mark.parametrize("answer", [b"Once upon a place", OPENING[:-1], b""])
def test_a_replay_that_differs_or_is_shorter_is_refused(answer: bytes) -> None:
    """Nothing of another sample gets behind the saved text."""
    with pytest.raises(DiffersError):
        joined(replaying(OPENING), [answer])


def test_a_replay_of_nothing_is_decided_at_once() -> None:
    """Without saved text every byte is new."""
    join = replaying(b"")

    assert join.decided
    assert joined(join, [b"all"]) == b"all"


# --- asked to go on -------------------------------------------------------------------------------
END = b"and the stone sang on below the quiet water of the long river"


@pytest.mark.parametrize("size", [MIN_OVERLAP_BYTES, len(END)])
def test_an_anchored_repetition_is_removed(size: int) -> None:
    """What repeats the very end is swallowed, from the shortest that is no chance on."""
    join = asked(b"long before, " + END)

    assert joined(join, [END[-size:] + b", and on"]) == b", and on"
    assert (join.overlap, join.verified) == (size, True)


def test_a_repetition_too_short_to_be_sure_of_is_kept() -> None:
    """A word that stands twice is better than a word that is lost."""
    join = asked(END)
    answer = END[-MIN_OVERLAP_BYTES + 1 :] + b", and on to somewhere else entirely"

    assert joined(join, [answer]) == answer
    assert (join.overlap, join.verified) == (0, False)


def test_a_repetition_of_an_earlier_place_is_kept() -> None:
    """Only what is anchored at the end is a repetition; the rest may be the text's own."""
    answer = END[:40] + b" but then it stopped"

    assert joined(asked(END), [answer]) == answer


def test_the_longest_repetition_is_removed() -> None:
    """In a periodic text the whole overlap goes, not its last period alone."""
    period = b"around and around it went "
    join = asked(period * 4)

    assert joined(join, [period * 3, b"and came to rest there"]) == b"and came to rest there"
    assert join.overlap == 3 * len(period)


def test_a_short_answer_is_let_through_at_its_end() -> None:
    """It was held because it might still have become a repetition."""
    assert joined(asked(END), [b"The end."]) == b"The end."


def test_an_answer_anew_to_go_on_is_refused() -> None:
    """A model that begins from the start again is not appended."""
    with pytest.raises(AnsweredAnewError):
        joined(asked(END), [OPENING + b" More."])


# --- however the bytes come -----------------------------------------------------------------------
_TEXT = st.text(alphabet="ab \n·", max_size=60).map(str.encode)
_JOINS: list[Callable[[bytes], Join]] = [
    lambda saved: going_on(saved[-5:], opening=saved[:OPENING_BYTES]),
    lambda saved: going_on(opening=saved[:OPENING_BYTES]),
    lambda saved: going_on(b" \n", opening=saved[:OPENING_BYTES]),
    replaying,
    lambda saved: asked(saved, opening=saved[:OPENING_BYTES]),
]


def _result(join: Join, pieces: Sequence[bytes]) -> tuple[object, int, bool]:
    try:
        kept: object = joined(join, pieces)
    except Refused as refused:
        return type(refused), 0, False
    return kept, join.overlap, join.verified


@given(
    saved=_TEXT,
    more=_TEXT,
    repeats=st.integers(0, 120),
    make=st.sampled_from(_JOINS),
    cuts=st.sets(st.integers(1, 200)),
)
def test_however_the_bytes_arrive_the_join_is_the_same(
    saved: bytes, more: bytes, repeats: int, make: Callable[[bytes], Join], cuts: set[int]
) -> None:
    """Byte by byte, in pieces or whole: what is appended does not depend on the network."""
    saved = saved * 3 or b"x"
    answer = saved[-repeats:] + more if repeats else more
    places = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    pieces = [answer[a:b] for a, b in itertools.pairwise(places)]

    whole = _result(make(saved), [answer] if answer else [])

    assert _result(make(saved), pieces) == whole
    assert _result(make(saved), [bytes([byte]) for byte in answer]) == whole
