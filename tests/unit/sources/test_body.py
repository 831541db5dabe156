"""What is sent: the user's body, the turn, and what an endpoint takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipeline.ports import Ask, AskOn, GoOnFrom
from pipeline.sources.body import Quirks, chat_body, learn, quirks_for
from tokenspool.model import Prefill

USER = {"role": "user", "content": "Say it."}
PLAIN = Quirks()
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("body", "limit", "quirks", "sent"),
    [
        pytest.param({"top_k": 3}, None, PLAIN, {"top_k": 3}, id="unknown-fields-stay"),
        pytest.param({"n": 1, "stream": False}, None, PLAIN, {}, id="n-and-stream-go"),
        pytest.param({"max_tokens": 9}, None, PLAIN, {"max_tokens": 9}, id="own-limit"),
        pytest.param({"max_tokens": 9}, 5, PLAIN, {"max_tokens": 5}, id="limit"),
        pytest.param({}, 5, PLAIN, {"max_tokens": 5}, id="limit-by-old-name"),
        pytest.param({"max_tokens": None}, 5, PLAIN, {"max_tokens": 5}, id="null-limit"),
        pytest.param(
            {"max_completion_tokens": 9},
            5,
            PLAIN,
            {"max_completion_tokens": 5},
            id="the-body's-name-stays",
        ),
        pytest.param(
            {},
            5,
            quirks_for("https://api.openai.com/v1"),
            {"max_completion_tokens": 5},
            id="openai",
        ),
        pytest.param(
            {"max_tokens": 9},
            None,
            Quirks(limit_name="max_completion_tokens", limit_is_learned=True),
            {"max_completion_tokens": 9},
            id="a-learned-name-replaces-the-body's",
        ),
    ],
)
def test_a_body_is_the_users_with_stream_and_limit(
    body: dict[str, Any], limit: int | None, quirks: Quirks, sent: dict[str, Any]
) -> None:
    """Nothing of the user's request is lost, and only the stream and the limit are ours."""
    before = {**body}

    found = chat_body(Ask(body=body, limit=limit), quirks)

    found["stream_options"].pop("include_obfuscation", None)
    assert found == {**sent, **STREAMED}
    assert body == before


@pytest.mark.parametrize(
    ("quirks", "given", "sent"),
    [
        (PLAIN, {"x": 1}, {"x": 1, "include_usage": True}),
        (PLAIN, None, {"include_usage": True}),
        (Quirks(pads=True), None, {"include_usage": True, "include_obfuscation": False}),
        (Quirks(takes_stream_options=False), {"x": 1}, None),
    ],
)
def test_usage_is_asked_for(quirks: Quirks, given: object, sent: object) -> None:
    """Usage is asked for where it can be, padding is refused, and the user's own options stay."""
    before = copy.copy(given)

    body = chat_body(Ask(body={"stream_options": given}), quirks)

    assert body.get("stream_options") == sent
    assert given == before


@pytest.mark.parametrize(
    ("url", "name", "pads"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens", True),
        ("https://eu.api.openai.com/v1", "max_completion_tokens", True),
        ("https://me.openai.azure.com/openai/v1", "max_completion_tokens", False),
        ("https://api.mistral.ai/v1", "max_tokens", False),
        ("http://localhost:8000/v1", "max_tokens", False),
        ("https://notapi.openai.com.example.org/v1", "max_tokens", False),
    ],
)
def test_hosts_are_known_by_their_names(url: str, name: str, pads: bool) -> None:
    """OpenAI and Azure have a limit's new name; only OpenAI pads its chunks."""
    assert quirks_for(url) == Quirks(limit_name=name, pads=pads)


@pytest.mark.parametrize(
    ("flag", "message", "top"),
    [
        (
            Prefill.CONTINUE_FINAL_MESSAGE,
            {},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        (Prefill.PREFIX, {"prefix": True}, {}),
        (Prefill.PARTIAL, {"partial": True}, {}),
        (Prefill.TRAILING, {}, {}),
    ],
)
def test_going_on_puts_the_text_back(
    flag: Prefill, message: dict[str, Any], top: dict[str, Any]
) -> None:
    """The saved text is the trailing assistant message, marked as the endpoint wants it."""
    ask = Ask(body={"messages": [USER]}, turn=GoOnFrom(text="Once", flag=flag))

    body = chat_body(ask, PLAIN)

    begun = {"role": "assistant", "content": "Once", **message}
    assert body == {"messages": [USER, begun], **top, **STREAMED}


def test_a_users_own_beginning_and_the_text_are_one_message() -> None:
    """A body that ends with the assistant's words is gone on from behind them, not beside them."""
    begun = {"role": "assistant", "content": "Once", "name": "A"}
    messages = [USER, begun]

    body = chat_body(
        Ask(body={"messages": messages}, turn=GoOnFrom(text=" upon", flag=Prefill.TRAILING)), PLAIN
    )

    assert body["messages"] == [USER, {"role": "assistant", "content": "Once upon", "name": "A"}]
    assert messages == [USER, {"role": "assistant", "content": "Once", "name": "A"}]


def test_asking_on_quotes_the_tail() -> None:
    """Without a prefix the text is history, and a user's turn quotes where to go on."""
    ask = Ask(body={"messages": [USER]}, turn=AskOn(text="Il {était} une", tail="{était} une"))

    messages = chat_body(ask, PLAIN)["messages"]

    assert messages[:2] == [USER, {"role": "assistant", "content": "Il {était} une"}]
    assert messages[2]["role"] == "user"
    assert "<tail>{était} une</tail>" in messages[2]["content"]


@pytest.mark.parametrize(
    ("sent", "refusal", "learned"),
    [
        pytest.param(
            {"stream_options": {}},
            "[{'type': 'extra_forbidden', 'loc': ['body', 'stream_options']}]",
            Quirks(takes_stream_options=False),
            id="38-stream-options",
        ),
        pytest.param(
            {"max_completion_tokens": 1},
            "{'loc': ['body', 'max_completion_tokens'], 'msg': 'Extra inputs are not permitted'}",
            Quirks(limit_name="max_tokens", limit_is_learned=True),
            id="39-new-name",
        ),
        pytest.param(
            {"max_tokens": 1},
            "Unsupported parameter: 'max_tokens' is not supported with this model."
            " Use 'max_completion_tokens' instead.",
            Quirks(limit_name="max_completion_tokens", limit_is_learned=True),
            id="39-old-name",
        ),
        pytest.param(
            {"max_tokens": 1},
            "max_tokens is too large: 999. This model supports at most 400 completion tokens.",
            None,
            id="a-value-is-no-parameter",
        ),
        pytest.param({}, "Unsupported parameter: 'stream_options'", None, id="not-sent"),
        pytest.param({"top_k": 1}, "unknown field top_k", None, id="the-user's-own"),
    ],
)
def test_refusals_of_our_parameters_are_learned_from(
    sent: dict[str, Any], refusal: str, learned: Quirks | None
) -> None:
    """Rows 38 and 39: what an endpoint does not take is left out; what the user sent is his."""
    assert learn(PLAIN, sent, refusal) == learned
