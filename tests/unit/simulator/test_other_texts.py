"""Answers of other kinds: sampled ones, refrains, and of other lengths."""

from __future__ import annotations

from simulator.sampled import check_sampled
from tests.unit.simulator.client import Client, body_of
from tests.unit.simulator.conftest import Start

QUESTION = "Tell me of the harbour."
TOKENS = 120
VLLM = {"continue_final_message": True, "add_generation_prompt": False}


async def whole_text(client: Client) -> str:
    """Give the text that the whole answer has."""
    got: str = await client.sim("text", body_of(QUESTION))
    return got


async def test_a_model_that_samples_joins_at_every_character(sim: Start) -> None:
    """Other words each time, no index doubled or missing."""
    client = await sim(tokens=20, sampling=True)
    text = (await client.chat(QUESTION)).text
    assert text == await whole_text(client)

    for at in range(1, len(text)):
        got = await client.chat(QUESTION, text[:at])

        assert check_sampled(text[:at] + got.text, tokens=20) == [], at


async def test_a_model_that_samples_never_says_the_same_again(sim: Start) -> None:
    """Asked anew, or asked on, twice: four different answers; after a reset, the first again."""
    client = await sim(tokens=TOKENS, sampling=True)

    first, second = [await client.chat(QUESTION) for _ in range(2)]
    third, fourth = [await client.chat(QUESTION, first.text[:200]) for _ in range(2)]
    await client.sim("reset", b"")
    again = await client.chat(QUESTION)

    assert len({first.text[200:], second.text[200:], third.text, fourth.text}) == 4
    assert check_sampled(second.text, tokens=TOKENS) == []
    assert again.text == first.text


async def test_what_follows_a_seam_is_never_the_first_answer(sim: Start) -> None:
    """Also when the simulator did not say the beginning itself: it may have been restarted."""
    client = await sim(tokens=TOKENS, sampling=True)
    text = await whole_text(client)

    rest = (await client.chat(QUESTION, text[:200])).text

    assert rest[20:] != text[220:]
    assert check_sampled(text[:200] + rest, tokens=TOKENS) == []


async def test_a_model_that_samples_and_ignores_prefixes_is_seen_by_the_check(sim: Start) -> None:
    """What it says anew has other words, but begins with index 0."""
    client = await sim(tokens=TOKENS, sampling=True, prefix="ignore")
    text = (await client.chat(QUESTION)).text

    anew = (await client.chat(QUESTION, text[:200])).text

    assert anew != text
    assert check_sampled(anew, tokens=TOKENS) == []
    assert check_sampled(text[:200] + anew) != []


async def test_a_refrain_can_be_asked_for(sim: Start) -> None:
    """By setting, header or metadata; the answer is gone on from like any other."""
    by_setting = await sim(tokens=300, shape="refrain")
    client = await sim(tokens=300)
    text = await whole_text(by_setting)

    by_header = await client.chat(QUESTION, headers={"x_sim_shape": "refrain"})
    by_metadata = await client.chat(QUESTION, metadata={"shape": "refrain"})
    rest = await by_setting.chat(QUESTION, text[:700])

    assert by_header.text == by_metadata.text == text
    assert text.count(text[:200]) >= 2
    assert text[:700] + rest.text == text


async def test_an_answer_of_another_length_can_be_asked_for(sim: Start) -> None:
    """By header or metadata; nonsense is refused."""
    client = await sim(tokens=100)

    by_header = await client.chat(QUESTION, headers={"x_sim_tokens": "7"})
    by_metadata = await client.chat(QUESTION, metadata={"tokens": "7"})
    refused = await client.chat(QUESTION, metadata={"tokens": "many"})

    assert by_header.text == by_metadata.text
    assert len([event for event in by_header.events if event["choices"]]) == 7 + 2
    assert refused.status == 400
