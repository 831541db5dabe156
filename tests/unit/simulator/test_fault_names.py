"""How faults are written."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.faults import NAMES, Faults, merge, parse_faults
from tests.unit.simulator.client import contents
from tests.unit.simulator.conftest import Start

TOKENS = 30
QUESTION = "Tell me of the harbour."


def test_a_fault_is_read_from_names_and_from_json() -> None:
    """A name alone is yes or one; unknown names and values are refused, with those there are."""
    assert parse_faults(" crlf, status = 429 ,finish=") == Faults(crlf=True, status=429, finish="")
    assert parse_faults('{"cut_after_tokens": 3, "cut": "fin"}') == Faults(
        cut_after_tokens=3, cut="fin"
    )
    assert parse_faults("comments") == Faults(comments=1)
    for wrong in ("no_such_fault", "status=many", '{"crlf": "yes"}', "cut=slowly", "{"):
        with pytest.raises(ValueError, match="there are: after_done, ascii"):
            parse_faults(wrong)


def test_of_two_faults_both_happen_and_the_second_wins() -> None:
    """What the second does not say, the first does."""
    merged = merge(Faults(crlf=True, status=500), Faults(status=429))

    assert merged == Faults(crlf=True, status=429)


async def test_a_fault_that_there_is_not_is_refused(sim: Start) -> None:
    """Rather than that a test passes without its fault."""
    client = await sim()

    got = await client.chat(fault="cut_after_token=3")

    assert got.status == 400
    assert "cut_after_tokens" in got.error["message"]


async def test_a_fault_can_stand_in_the_metadata(sim: Start) -> None:
    """Where clients can not set headers; it is no part of the conversation."""
    client = await sim(tokens=TOKENS)

    got = await client.chat(metadata={"fault": "end_after_tokens=3"})

    assert contents(got) == 3
    assert (await client.chat()).text.startswith(got.text)


async def test_every_fault_is_described(request: Any) -> None:
    """docs/simulator.md has a line for each."""
    text = (request.config.rootpath / "docs" / "simulator.md").read_text()

    assert [name for name in NAMES if f"`{name}" not in text] == []
