"""Keys: read where they are named, and refused where they could not be sent."""

from __future__ import annotations

import pytest

from tokenspool.errors import Unavailable
from tokenspool.model import Endpoint
from worker.wiring import key_for

OWN = Endpoint(url="http://own/v1", model="m", api_key_env="OWN_KEY")


@pytest.mark.parametrize("said", ["sekret", "sekret\n", "\r\n sekret\t", "sekret\r"])
def test_white_space_around_a_key_is_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """`export KEY=$(cat FILE)` and a copied line bring some along."""
    monkeypatch.setenv("OWN_KEY", said)

    assert key_for(OWN) == "sekret"


@pytest.mark.parametrize(
    "said", ["schlüssel", "sek\nret", "sek\x1bret", "sek\udcffret", "sek\u2019ret"]
)
def test_a_key_that_cannot_be_sent_is_refused_unseen(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """One sentence names the variable and shows nothing of the key."""
    monkeypatch.setenv("OWN_KEY", said)

    with pytest.raises(Unavailable, match="set OWN_KEY to the key alone") as caught:
        key_for(OWN)

    assert "sek" not in str(caught.value)
    assert "schl" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("said", ["", " \n"])
def test_a_server_of_ones_own_may_do_without(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """OpenAI may not."""
    monkeypatch.setenv("OWN_KEY", said)

    assert key_for(OWN) == "none"
    openai = Endpoint(url="https://api.openai.com/v1", model="m", api_key_env="OWN_KEY")
    with pytest.raises(Unavailable, match="needs a key: set OWN_KEY"):
        key_for(openai)
