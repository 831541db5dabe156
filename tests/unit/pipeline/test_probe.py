"""The probe: what an endpoint makes of the beginning of an answer, judged by what comes back."""

from __future__ import annotations

import pytest

from pipeline.ports import GoOnFrom
from pipeline.sources.probe import PROBE_TOKENS, REST_CHARS, choose_cut, judge, probe
from tests.unit.pipeline.told import OPENED, Told, finish, text, thought
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Prefill
from tokenspool.store.endpoints import Known

TEXT = (
    "It was a bright cold day in the harbour, and the clocks along the quay disagreed"
    " about the hour by an astonishing margin, as they had for years."
)
AT = TEXT.index("astonishing") + 6  # "astoni|shing"
REFUSED = StreamError(ErrorKind.REQUEST, "assistant message must not be last")


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (TEXT[AT:], "exact"),
        (TEXT[AT : AT + 20], "exact"),
        (TEXT[AT : AT + 10], "exact"),
        ("shing difference between them", "near"),
        ("shing", "near"),
        ("shingle", "other"),  # another word
        (TEXT, "anew"),
        (TEXT[:20], "anew"),
        ("Of course! Here is the text:", "other"),
        (" astonishing margin", "other"),
        ("", "other"),
    ],
)
def test_each_answer_has_its_verdict(said: str, verdict: str) -> None:
    """Who goes on finishes the word; who answers anew begins as before."""
    assert judge(TEXT, AT, said) == verdict


def test_a_short_rest_of_a_word_proves_nothing() -> None:
    """Two letters may come by chance."""
    assert judge("the harbour lights", 9, "ur is calm") == "other"


def test_other_scripts_are_judged_by_their_bytes() -> None:
    """Twenty equal bytes are no chance in any script."""
    told = "Этой весной лёд сошёл поздно, и река стояла тихо до самого мая."

    assert judge(told, 20, told[20:40]) == "exact"
    assert judge(told, 20, told[:20]) == "anew"
    assert judge(told, 20, "совсем другое начало") == "other"


def test_it_cuts_inside_a_long_word_past_the_opening() -> None:
    """There the rest of the word tells going on from anything else."""
    at = choose_cut(TEXT)

    assert at >= 64
    assert TEXT[at - REST_CHARS : at + REST_CHARS].isalpha()


@pytest.mark.parametrize(
    "said", ["短い文章です。" * 20, "a b c d e f g h " * 20, "ab", "abc", "🙂"]
)
def test_every_text_can_be_cut_somewhere(said: str) -> None:
    """Also one without long words, in another script, or hardly any at all."""
    assert 0 < choose_cut(said) <= max(1, len(said))


async def test_the_first_flag_that_works_is_kept() -> None:
    """Refused ones are passed over; the cost of all is counted."""
    at = choose_cut(TEXT)
    source = Told([[REFUSED], [OPENED, text(TEXT[at:], chunks=7), finish()]])

    finding = await probe(source, {}, TEXT, flags=list(Prefill))

    assert finding.known == Known(resumes_by=list(Prefill)[1].value, deterministic=True)
    assert (finding.generated, finding.rebilled > 0) == (7, True)
    assert [ask.turn for ask in source.requests] == [
        GoOnFrom(text=TEXT[:at], flag=flag) for flag in list(Prefill)[:2]
    ]
    assert {ask.limit for ask in source.requests} == {PROBE_TOKENS}


async def test_a_sampler_that_finishes_the_word_goes_on_but_is_not_deterministic() -> None:
    """Its words behind the cut are its own."""
    at = choose_cut(TEXT)
    rest = TEXT[at:].split(maxsplit=1)[0]
    source = Told([[OPENED, text(rest + " quite otherwise"), finish()]])

    finding = await probe(source, {}, TEXT, flags=[Prefill.PREFIX])

    assert finding.known == Known(resumes_by="prefix", deterministic=False)


async def test_one_that_answers_anew_every_time_can_be_replayed() -> None:
    """The same bytes again: they are swallowed."""
    source = Told([[OPENED, text(TEXT[:60]), finish("length")]] * 2)

    finding = await probe(source, {}, TEXT, flags=[Prefill.PREFIX, Prefill.TRAILING])

    assert finding.known == Known(resumes_by="replay", deterministic=True)
    assert len(source.requests) == 2


@pytest.mark.parametrize(
    "answers",
    [[[REFUSED]], [[OPENED, text("Sure! "), finish()]], [[OPENED, thought("hm"), finish()]]],
)
async def test_one_that_does_none_of_it_is_known_as_such(answers: list[list[object]]) -> None:
    """And is not asked again by the next job."""
    finding = await probe(Told(answers), {}, TEXT, flags=[Prefill.PREFIX])

    assert finding.known == Known(resumes_by="none")


@pytest.mark.parametrize(
    "error",
    [
        StreamError(ErrorKind.RATE_LIMITED, "slow down"),
        StreamError(ErrorKind.NETWORK, "cut"),
        StreamError(ErrorKind.REQUEST, "no such model", code="model_not_found"),
    ],
)
async def test_trouble_is_no_finding(error: StreamError) -> None:
    """Nothing is learned from an endpoint that could not be asked."""
    with pytest.raises(StreamError):
        await probe(Told([[OPENED, text("shi"), error]]), {}, TEXT, flags=[Prefill.PREFIX])
