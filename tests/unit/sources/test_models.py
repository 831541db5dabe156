"""Asking an endpoint for its models."""

from __future__ import annotations

import pytest

from pipeline.sources.models import knows_model, list_models
from tests.unit.sources.asking import KEY, MODEL
from tests.unit.sources.raw import CLOSE, Step, head, raw_server, refusal
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Endpoint

FOUND = refusal(200, {"id": MODEL})
MISSING = refusal(404, {"error": {"message": "no"}})


def _listed(*names: str) -> list[Step]:
    return refusal(200, {"object": "list", "data": [{"id": name} for name in names]})


def _endpoint(url: str, model: str = MODEL) -> Endpoint:
    return Endpoint(url=url, model=model)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, ["a", "b"]),
        ({"models": [{"name": "a"}]}, ["a"]),
        ([{"id": "a"}], ["a"]),
        (["a"], ["a"]),
        ({"data": [{"id": 7}, {}, None]}, []),
        ({"data": None}, []),
        (b"<html>", []),
    ],
)
async def test_lists_are_read_in_every_form(body: object, names: list[str]) -> None:
    """OpenAI's list, other servers' lists, or none."""
    async with raw_server(refusal(200, body)) as server:
        found = await list_models(_endpoint(server.url), api_key=KEY)

    assert found == names
    assert server.requests[0].path == "/v1/models"


@pytest.mark.parametrize(
    ("scripts", "known"),
    [
        pytest.param([_listed(MODEL, "x")], True, id="listed"),
        pytest.param([_listed("x"), FOUND], True, id="an-alias"),
        pytest.param([_listed("x"), MISSING], False, id="not-there"),
        pytest.param([_listed(), MISSING], None, id="an-empty-list-says-nothing"),
        pytest.param([_listed("x"), refusal(500, {})], None, id="no-answer"),
        pytest.param([MISSING], None, id="no-list"),
        pytest.param([refusal(403, {})], None, id="a-key-that-may-not-list"),
        pytest.param([[head(), CLOSE], MISSING], None, id="nothing"),
    ],
)
async def test_a_model_is_known_unknown_or_not_to_be_told(
    scripts: list[list[Step]], known: bool | None
) -> None:
    """Only a list without it and a look-up that finds nothing say that a model is missing."""
    async with raw_server(*scripts) as server:
        assert await knows_model(_endpoint(server.url), api_key=KEY) is known


async def test_a_name_with_a_slash_is_looked_up_whole() -> None:
    """Names like `org/model` are one part of the path."""
    async with raw_server(_listed("x"), FOUND) as server:
        await knows_model(_endpoint(server.url, "org/m"), api_key=KEY)

    assert server.requests[1].path == "/v1/models/org%2Fm"


async def test_a_refused_key_is_told() -> None:
    """With a wrong key no request can succeed: that is said, not shrugged off."""
    async with raw_server(refusal(401, {"error": {"message": "bad key"}})) as server:
        with pytest.raises(StreamError) as caught:
            await knows_model(_endpoint(server.url), api_key=KEY)

    assert caught.value.kind is ErrorKind.AUTH


async def test_an_unreachable_server_is_told() -> None:
    """Nobody there is not the same as not knowing."""
    async with raw_server(FOUND) as server:
        url = server.url
    with pytest.raises(StreamError) as caught:
        await knows_model(_endpoint(url), api_key=KEY)

    assert caught.value.kind is ErrorKind.CONNECT
