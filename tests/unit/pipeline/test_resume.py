"""Choosing how a cut answer is taken up again: the tables, and where a saved text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.joining import MIN_OVERLAP_BYTES
from pipeline.ports import AskOn, Fresh, GoOnFrom
from pipeline.resume import (
    HEALED_BYTES,
    MAX_PREFIX_BYTES,
    QUOTED_CHARS,
    SHORT_TOKENS,
    Saved,
    after_refusal,
    choose,
    is_bound,
    split_apart,
    split_prefix,
    turn_for,
)
from tokenspool.model import Kind, Prefill, Resume
from tokenspool.store.endpoints import Known

FLAG = Prefill.PREFIX
UNKNOWN, REPLAYS, NEITHER = Known(), Known(resumes_by="replay"), Known(resumes_by="none")
PREFILLS = [Known(resumes_by=flag.value) for flag in Prefill]
SHORT, LONG = SHORT_TOKENS - 1, SHORT_TOKENS


def saved(text: int = 2000, *, other: int = 0, tokens: int = LONG, bound: bool = False) -> Saved:
    """Make what is saved of an answer."""
    return Saved(text=text, other=other, tokens=tokens, bound=bound)


# --- what to do next ------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", Resume)
def test_without_any_text_the_question_is_asked_fresh(policy: Resume) -> None:
    """Nothing is saved, so there is nothing to join to."""
    assert choose(policy, saved(0), UNKNOWN, cause="network", flag=FLAG) is None


@pytest.mark.parametrize("policy", Resume)
def test_reasoning_alone_cannot_be_gone_on_from(policy: Resume) -> None:
    """What was thought but not said is made anew, in an edition of its own."""
    chosen = choose(policy, saved(0, other=10), UNKNOWN, cause="network", flag=FLAG)

    assert chosen is Resume.RESTART


@pytest.mark.parametrize("policy", Resume)
@pytest.mark.parametrize("cause", ["network", "length"])
def test_bound_answers_are_made_anew(policy: Resume, cause: str) -> None:
    """Never resume inside a tool call or structured output, whatever the policy says."""
    chosen = choose(policy, saved(bound=True), PREFILLS[0], cause=cause, flag=FLAG)

    assert chosen is Resume.RESTART


@pytest.mark.parametrize("policy", set(Resume) - {Resume.AUTO})
@pytest.mark.parametrize("known", [UNKNOWN, REPLAYS, NEITHER, PREFILLS[0]])
@pytest.mark.parametrize("text", [1, 2000])
def test_an_explicit_policy_is_obeyed_and_never_probes(
    policy: Resume, known: Known, text: int
) -> None:
    """The person knows the endpoint."""
    assert choose(policy, saved(text), known, cause="network", flag=None) is policy


def test_a_text_beyond_every_context_is_not_put_back_whole() -> None:
    """Only its end is shown."""
    huge = saved(MAX_PREFIX_BYTES + 1)

    assert choose(Resume.PREFILL, huge, UNKNOWN, cause="network", flag=FLAG) is Resume.CONTINUE
    assert choose(Resume.AUTO, huge, PREFILLS[0], cause="length", flag=FLAG) is Resume.CONTINUE
    assert choose(Resume.AUTO, huge, PREFILLS[0], cause="network", flag=FLAG) is Resume.CONTINUE


@pytest.mark.parametrize(
    ("known", "flag", "text", "tokens", "cause", "chosen"),
    [
        # Not known yet: probe, if there is enough text to prove anything by.
        (UNKNOWN, FLAG, 128, SHORT, "network", Resume.AUTO),
        (UNKNOWN, FLAG, 127, SHORT, "network", Resume.RESTART),
        (UNKNOWN, FLAG, 64, SHORT, "length", Resume.AUTO),
        (UNKNOWN, FLAG, 63, SHORT, "length", Resume.CONTINUE),
        # Its profile says that it cannot go on behind a prefix.
        (UNKNOWN, None, 2000, LONG, "network", Resume.CONTINUE),
        (UNKNOWN, None, 2000, SHORT, "network", Resume.RESTART),
        (UNKNOWN, None, 2000, SHORT, "length", Resume.CONTINUE),
        # Found out.
        (REPLAYS, FLAG, 2000, SHORT, "network", Resume.REPLAY),
        (REPLAYS, FLAG, 2000, SHORT, "length", Resume.CONTINUE),
        (NEITHER, FLAG, 2000, SHORT, "network", Resume.RESTART),
        (NEITHER, FLAG, 2000, LONG, "network", Resume.CONTINUE),
        (NEITHER, FLAG, 2000, SHORT, "length", Resume.CONTINUE),
        *[(known, FLAG, 1, 1, "network", Resume.PREFILL) for known in PREFILLS],
        *[(known, None, 1, 1, "length", Resume.PREFILL) for known in PREFILLS],
    ],
)
def test_auto_takes_the_best_way_that_is_known(
    known: Known, flag: Prefill | None, text: int, tokens: int, cause: str, chosen: Resume
) -> None:
    """Prefill before replay before asking on; little text is made anew."""
    assert choose(Resume.AUTO, saved(text, tokens=tokens), known, cause=cause, flag=flag) is chosen


@pytest.mark.parametrize(
    ("policy", "refused", "tokens", "cause", "chosen"),
    [
        (Resume.AUTO, Resume.PREFILL, LONG, "network", Resume.CONTINUE),
        (Resume.AUTO, Resume.PREFILL, SHORT, "network", Resume.RESTART),
        (Resume.AUTO, Resume.REPLAY, LONG, "network", Resume.CONTINUE),
        (Resume.AUTO, Resume.REPLAY, SHORT, "network", Resume.RESTART),
        (Resume.AUTO, Resume.PREFILL, SHORT, "length", Resume.CONTINUE),
        (Resume.AUTO, Resume.CONTINUE, LONG, "network", Resume.RESTART),
        (Resume.AUTO, Resume.CONTINUE, LONG, "length", Resume.CONTINUE),
        (Resume.RESTART, Resume.CONTINUE, LONG, "length", Resume.RESTART),
        (Resume.PREFILL, Resume.PREFILL, SHORT, "network", Resume.RESTART),
    ],
)
def test_after_a_refusal_comes_the_next_best(
    policy: Resume, refused: Resume, tokens: int, cause: str, chosen: Resume
) -> None:
    """Much text is worth an approximate seam, little is not; `length` cannot be made anew."""
    assert after_refusal(policy, refused, saved(tokens=tokens), cause=cause) is chosen


@pytest.mark.parametrize(
    ("body", "offsets", "bound"),
    [
        ({}, {Kind.TEXT: 5}, False),
        ({}, {Kind.TEXT: 5, Kind.REASONING: 9}, False),
        ({}, {Kind.TOOL: 1}, True),
        ({}, {Kind.REFUSAL: 1}, True),
        ({"response_format": {"type": "text"}}, {}, False),
        ({"response_format": {}}, {}, False),
        ({"response_format": {"type": "json_object"}}, {}, True),
        ({"response_format": {"type": "json_schema"}}, {}, True),
        # The Responses wire.
        ({"text": {"format": {"type": "json_schema"}}}, {}, True),
        ({"text": {"format": {"type": "text"}}}, {}, False),
        ({"text": {"verbosity": "low"}}, {}, False),
        # Servers of one's own.
        ({"guided_json": {"type": "object"}}, {}, True),
        ({"structured_outputs": {"regex": "a+"}}, {}, True),
        ({"regex": "a+"}, {}, True),
        ({"guided_json": None}, {}, False),
    ],
)
def test_grammars_and_tool_calls_bind(
    body: dict[str, object], offsets: dict[Kind, int], bound: bool
) -> None:
    """Half of a JSON value or of a call has no place where a new answer could be joined."""
    assert is_bound(body, offsets) is bound


# --- where to cut ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "sent", "held"),
    [
        ("one two", "one two", ""),
        ("one two \n", "one two", " \n"),
        ("\n\n", "", "\n\n"),
        ("", "", ""),
        ("слово\u00a0", "слово\u00a0", ""),
    ],
)
def test_a_prefix_never_ends_in_white_space(text: str, sent: str, held: str) -> None:
    """Templates trim it, and some servers refuse it."""
    assert split_prefix(text) == (sent, held)


@pytest.mark.parametrize(
    ("text", "sent", "held"),
    [
        ("one two", "one", " two"),
        ("one two ", "one", " two "),
        ("one", "one", ""),
        ("one " + "x" * HEALED_BYTES, "one", " " + "x" * HEALED_BYTES),
        ("one " + "x" * (HEALED_BYTES + 1), "one " + "x" * (HEALED_BYTES + 1), ""),
    ],
)
def test_healing_holds_back_at_most_the_last_word(text: str, sent: str, held: str) -> None:
    """Ours may have cut its tokens; a longer word is not held back at all."""
    assert split_prefix(text, heal=True) == (sent, held)


@given(text=st.text(), heal=st.booleans())
def test_splitting_a_prefix_loses_nothing(text: str, heal: bool) -> None:
    """What is sent and what is held back are the text."""
    sent, held = split_prefix(text, heal=heal)

    assert sent + held == text


@given(text=st.text(alphabet="ab ·é\n", min_size=0, max_size=400))
def test_a_place_apart_tells_going_on_from_answering_anew(text: str) -> None:
    """The held-back tail begins unlike the document, and prefix and tail are the text."""
    split = split_apart(text)

    if split is not None:
        sent, held = split
        assert sent + held == text
        assert sent
        assert not sent[-1:].isspace()
        assert len(held.encode()) >= MIN_OVERLAP_BYTES
        assert held.encode()[:MIN_OVERLAP_BYTES] != text.encode()[:MIN_OVERLAP_BYTES]


def test_a_text_of_one_phrase_has_no_place_apart() -> None:
    """Every place looks like its beginning."""
    assert split_apart("a" * 1000) is None
    assert split_apart("too short") is None


def test_a_refrain_behind_a_verse_is_cut_inside_the_verse() -> None:
    """The refrain alone tells nothing; the end of the verse before it does."""
    refrain, verse = "sing the river, sing the stone, ", "but the third night it was quiet. "
    split = split_apart(refrain + verse + refrain)

    assert split is not None
    assert not refrain.startswith(split[1][:MIN_OVERLAP_BYTES])


# --- what is sent ---------------------------------------------------------------------------------
def test_each_strategy_has_its_turn() -> None:
    """Prefill puts the text back, continue quotes its end, the others ask as at first."""
    text = "x" * 1000

    assert turn_for(Resume.PREFILL, text, flag=FLAG) == GoOnFrom(text=text, flag=FLAG)
    assert turn_for(Resume.PREFILL, text, flag=None) == GoOnFrom(
        text=text, flag=Prefill.CONTINUE_FINAL_MESSAGE
    )
    assert turn_for(Resume.CONTINUE, text, flag=FLAG) == AskOn(text=text, tail="x" * QUOTED_CHARS)
    for strategy in (None, Resume.REPLAY, Resume.RESTART):
        assert turn_for(strategy, text, flag=FLAG) == Fresh()
