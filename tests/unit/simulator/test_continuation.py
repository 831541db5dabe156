"""What is made of the beginning of an answer: gone on with, refused, ignored, said again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.simulator.client import Client, body_of
from tests.unit.simulator.conftest import Start

QUESTION = "Tell me of the harbour."
TOKENS = 120
VLLM = {"continue_final_message": True, "add_generation_prompt": False}


async def whole_text(client: Client) -> str:
    """Give the text that the whole answer has."""
    got: str = await client.sim("text", body_of(QUESTION))
    return got


async def test_an_undisturbed_answer_is_the_text(sim: Start) -> None:
    """What `/sim/text` promises is what is streamed, and ends with `stop`."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(QUESTION)

    assert got.text == await whole_text(client)
    assert got.finish == ["stop"]


async def test_only_conversation_and_model_decide_the_text(sim: Start) -> None:
    """Sampling parameters, budgets, streaming and flags change nothing; the words do."""
    client = await sim(tokens=TOKENS)
    text = await whole_text(client)

    for fields in ({"temperature": 2.0, "seed": 3}, {"stream": False}, VLLM, {"max_tokens": 500}):
        assert (await client.chat(QUESTION, **fields)).text == text
    assert (await client.chat(QUESTION + " ")).text != text
    assert (await client.chat(QUESTION, model="other")).text != text


async def test_content_in_parts_is_the_same_conversation(sim: Start) -> None:
    """A list of text parts says what a string says."""
    client = await sim(tokens=TOKENS)
    turns = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]

    got = await client.chat(QUESTION, messages=turns)

    assert got.text == await whole_text(client)


async def test_a_prefix_is_gone_on_from_at_every_character(sim: Start) -> None:
    """Prefix and answer are the text, wherever the prefix ends."""
    client = await sim(tokens=40)
    text = await whole_text(client)

    for at in range(1, len(text) + 1):
        got = await client.chat(QUESTION, text[:at])

        assert text[:at] + got.text == text, at
        assert got.finish == ["stop"]


async def test_a_prefix_that_is_all_or_more_is_answered_with_an_end(sim: Start) -> None:
    """Nothing is left to say: no token, and `stop`."""
    client = await sim(tokens=TOKENS)
    text = await whole_text(client)

    for tokens in (TOKENS, TOKENS - 1, 5):
        got = await client.chat(QUESTION, text, headers={"x_sim_tokens": str(tokens)})

        assert (got.text, got.finish) == ("", ["stop"])
    assert (await client.chat(QUESTION, text[:-1], headers={"x_sim_tokens": "5"})).text == ""


async def test_a_stripped_prefix_gets_its_white_space_back(sim: Start) -> None:
    """Clients strip prefixes; the white space that was stripped is said again."""
    client = await sim(tokens=TOKENS)
    text = await whole_text(client)
    cuts = [at for at in range(2, len(text)) if text[at - 1].isspace()]
    assert len(cuts) > 20

    for at in cuts:
        stripped = text[:at].rstrip()
        got = await client.chat(QUESTION, stripped)

        assert stripped + got.text == text


async def test_a_budget_ends_an_answer_with_length(sim: Start) -> None:
    """Pieces of a budget each join to the whole text; only the last one stops."""
    client = await sim(tokens=25)
    text, said = await whole_text(client), ""
    finishes: list[str] = []

    while finishes[-1:] != ["stop"]:
        turns = (QUESTION, said) if said else (QUESTION,)
        got = await client.chat(*turns, max_tokens=10)
        said += got.text
        finishes += got.finish

    assert said == text
    assert finishes == ["length", "length", "stop"]


@pytest.mark.parametrize(
    ("flag", "fields", "marks"),
    [
        ("continue_final_message", VLLM, {}),
        ("prefix", {}, {"prefix": True}),
        ("partial", {}, {"partial": True}),
    ],
)
async def test_a_flag_that_is_needed_decides(
    sim: Start, flag: Any, fields: dict[str, Any], marks: dict[str, Any]
) -> None:
    """With the flag the answer goes on; without it the message is history and it begins anew."""
    client = await sim(tokens=TOKENS, prefix_flag=flag)
    text = await whole_text(client)
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": text[:50]}]
    marked = [turns[0], turns[1] | marks]

    told = await client.chat(messages=marked, **fields)
    silent = await client.chat(messages=turns)

    assert told.text == text[50:]
    assert silent.text == text


async def test_going_on_and_a_new_turn_at_once_are_refused(sim: Start) -> None:
    """As vLLM does: `add_generation_prompt` is true unless said otherwise."""
    client = await sim()

    got = await client.chat(QUESTION, "1.", continue_final_message=True)

    assert got.status == 400
    assert "add_generation_prompt" in got.error["message"]


async def test_a_prefix_can_be_ignored(sim: Start) -> None:
    """By setting or by fault: the answer begins anew, and the record says so."""
    client, honest = await sim(tokens=TOKENS, prefix="ignore"), await sim(tokens=TOKENS)
    text = await whole_text(client)

    assert (await client.chat(QUESTION, text[:50])).text == text
    assert (await honest.chat(QUESTION, text[:50], fault="prefix_ignored")).text == text
    assert [record["resumed_at"] for record in await honest.sim("requests")] == [None]


async def test_a_prefix_can_be_refused(sim: Start) -> None:
    """With the words that say why; a conversation that ends with the user is answered."""
    client = await sim(prefix="refuse")

    got = await client.chat(QUESTION, "1.")

    assert got.status == 400
    assert "must end with a user message" in got.error["message"]
    assert (await client.chat(QUESTION)).status == 200


async def test_a_prefix_can_be_said_again(sim: Start) -> None:
    """The echo is no token that was generated."""
    client = await sim(tokens=TOKENS, prefix="echo")
    text = await whole_text(client)

    got = await client.chat(QUESTION, text[:300], stream_options={"include_usage": True})

    assert got.text == text
    assert got.events[-1]["usage"]["completion_tokens"] < TOKENS
    assert (await client.sim("stats"))["generated"] == got.events[-1]["usage"]["completion_tokens"]


async def test_white_space_behind_a_prefix_can_be_refused(sim: Start) -> None:
    """As some servers do; without it the prefix is fine."""
    client = await sim(tokens=TOKENS, prefix_space="refuse")
    text = await whole_text(client)

    assert (await client.chat(QUESTION, text[:50] + " ")).status == 400
    assert (await client.chat(QUESTION, text[:50].rstrip())).status == 200


async def test_white_space_behind_a_prefix_can_be_trimmed(sim: Start) -> None:
    """Then it is said again: the client has to swallow it."""
    client = await sim(tokens=TOKENS, prefix_space="trim")
    text = await whole_text(client)
    at = next(at for at in range(20, len(text)) if text[at] == "\n") + 1

    got = await client.chat(QUESTION, text[:at])

    assert got.text[0].isspace()
    assert text[:at].rstrip() + got.text == text


async def test_words_of_somebody_else_are_gone_on_from(sim: Start) -> None:
    """Behind a prefix that is not the text's comes a text that the prefix decides."""
    client = await sim(tokens=TOKENS)

    one, again = [await client.chat(QUESTION, "Once upon a time") for _ in range(2)]
    other = await client.chat(QUESTION, "Long ago")

    assert one.text == again.text
    assert one.text[4:] != other.text[4:]
    assert one.finish == ["stop"]


@pytest.mark.parametrize(
    "ask", ["Please continue.", "You were INTERRUPTED", "… {end}", "Weiter ab „{end}“"]
)
async def test_a_turn_that_asks_to_go_on_is_answered_with_the_rest(sim: Start, ask: str) -> None:
    """By its words in English, or in any language by quoting the end."""
    client = await sim(tokens=TOKENS)
    text = await whole_text(client)

    got = await client.chat(QUESTION, text[:100], ask.format(end=text[70:100]))

    assert text[:100] + got.text == text
    assert [record["resumed_at"] for record in await client.sim("requests")] == [
        len(text[:100].encode())
    ]


async def test_asking_on_twice_is_answered_with_the_rest_of_the_rest(sim: Start) -> None:
    """Both pieces of the answer stand in the conversation."""
    client = await sim(tokens=TOKENS)
    text = await whole_text(client)

    got = await client.chat(QUESTION, text[:40], "continue", text[40:90], "continue")

    assert text[:90] + got.text == text


async def test_another_question_is_no_asking_on(sim: Start) -> None:
    """A conversation of several turns has an answer of its own."""
    client = await sim(tokens=TOKENS)
    text = await whole_text(client)

    got = await client.chat(QUESTION, text[:100], "And what of the mountain?")

    assert got.text[4:60] not in text
    assert got.finish == ["stop"]


@pytest.mark.parametrize("overlap", [1, 40, 100_000])
async def test_an_answer_to_go_on_may_repeat_the_end(sim: Start, overlap: int) -> None:
    """At most so many bytes, and only whole characters."""
    client = await sim(tokens=TOKENS, overlap=overlap)
    text = await whole_text(client)

    for at in range(60, 110):
        got = await client.chat(QUESTION, text[:at], "continue")

        again = len(got.text) - (len(text) - at)
        assert text[: at - again] + got.text == text, at
        size = len(text[at - again : at].encode())
        assert min(overlap, len(text[:at].encode())) - 3 <= size <= overlap


async def test_an_answer_to_go_on_may_begin_with_politeness(sim: Start) -> None:
    """The fault `preamble`: models like to say that they will."""
    client = await sim(tokens=TOKENS)
    text = await whole_text(client)

    got = await client.chat(QUESTION, text[:50], "continue", fault="preamble=Sure: ")

    assert got.text == "Sure: " + text[50:] or got.text == "Sure:" + text[50:]
