"""Servers that cannot be reached, or are no servers."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.unit.sources.asking import chat_source, get, get_from
from tests.unit.sources.raw import CLOSE, DONE, HANG, STOP, chunked, raw_server, refusal, text

GOOD = chunked(text("Hello"), STOP, DONE)


async def test_an_unreachable_server_is_no_connection() -> None:
    """Nobody listens: the endpoint is down, and the message names it."""
    async with raw_server(GOOD) as server:
        url = server.url
    got = await get_from(url)

    assert got.outcome == "! connect"
    assert got.error is not None
    assert f"127.0.0.1:{server.port}" in got.error.message


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://host/v1", "http:///v1", "http://127.0.0.1:99999/v1", "http://a b/v1"]
)
async def test_an_unusable_base_url_is_no_connection(url: str) -> None:
    """A base URL that is none is told like a server that is not there: the jobs are not burnt."""
    got = await get_from(url)

    assert got.outcome == "! connect"


async def test_a_password_in_the_base_url_is_not_shown() -> None:
    """Credentials in a URL are sent as such, and stay out of messages."""
    async with raw_server(refusal(500, {})) as server:
        got = await get_from(server.url.replace("127", "me:pass-word@127"))

    assert got.error is not None
    assert got.error.status == 500
    assert "uthorization: Basic bWU6cGFzcy13b3Jk" in server.requests[0].head
    assert "pass-word" not in got.error.message


async def test_a_silent_server_is_not_waited_for_in_connecting() -> None:
    """A server that accepts and says nothing is the watch's to end: connecting is done."""
    async with (
        raw_server([HANG]) as server,
        chat_source(server.url, connect_timeout_s=0.2) as source,
    ):
        asking = asyncio.ensure_future(get(source))
        done, _ = await asyncio.wait([asking], timeout=0.4)
        assert not done
        assert server.requests
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


async def test_an_answer_that_is_no_http_is_a_fault_of_the_network() -> None:
    """Something else listens there: one of our errors, no foreign one."""
    async with raw_server([b"SSH-2.0-OpenSSH\r\n\r\n", CLOSE]) as server:
        got = await get_from(server.url)

    assert got.outcome == "! network"


async def test_a_server_that_hangs_up_on_the_request_is_a_fault_of_the_network() -> None:
    """No byte came back: nobody knows whether it was begun."""
    async with raw_server([CLOSE]) as server:
        got = await get_from(server.url)

    assert got.outcome == "! network"
