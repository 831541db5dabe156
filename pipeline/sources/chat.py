"""Chat completions: the openai client sends the request, our own reader receives the answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from pipeline.ports import Ask, Event, GoOnFrom, Opened, Pace, Turn
from pipeline.sources.body import chat_body, learn, quirks_for
from pipeline.sources.client import address, make_client
from pipeline.sources.failures import Site, failure_of, request_id
from pipeline.sources.reading import Reading
from pipeline.sources.settings import SourceSettings
from pipeline.sources.ticks import TickStream
from pipeline.sources.transport import TICKS, TickTransport
from tokenspool.model import Endpoint, Prefill

logger = logging.getLogger(__name__)

#: A request is sent at most this often to find out which parameters an endpoint takes.
TRIES = 3
#: Refusals that may be about a parameter.
REFUSALS = frozenset({400, 422})
#: The address under which DeepSeek goes on behind a prefix.
_BETA = {"api.deepseek.com": "https://api.deepseek.com/beta"}


class ChatSource:
    """Fulfils `pipeline.ports.Source` for the chat completions of one endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        api_key: str,
        pace: Pace,
        settings: SourceSettings | None = None,
        transport: TickTransport | None = None,
    ) -> None:
        """Share a transport with other sources or have an own one; whoever made it closes it."""
        self._endpoint = endpoint
        self._settings = settings or SourceSettings()
        self._owns_transport = transport is None
        self._transport = transport or TickTransport(
            pace=pace, receive_bytes=self._settings.receive_bytes
        )
        self._clients: dict[str, openai.AsyncOpenAI] = {}
        self._quirks = quirks_for(endpoint.url)
        self._api_key = api_key
        self._site = Site.of(endpoint.url, api_key)

    async def stream(self, ask: Ask) -> AsyncGenerator[Event, None]:
        """See the port."""
        opened, body = await self._open(ask)
        try:
            reading = Reading(body, self._settings, self._site)
            yield opened
            del opened
            while (deltas := await reading.pull()) is not None:
                for delta in deltas:
                    yield delta
            self._log(reading)
            yield reading.ending()
        finally:
            body.close()

    async def close(self) -> None:
        """See the port."""
        if self._owns_transport:
            await self._transport.aclose()

    async def _open(self, ask: Ask) -> tuple[Opened, TickStream]:
        """Send the request; what the endpoint refuses to take is left out, and that remembered."""
        client, quirks = self._client(ask.turn), self._quirks
        for left in reversed(range(TRIES)):
            body = chat_body(ask, quirks)
            try:
                found = await self._send(client, body)
            except openai.APIStatusError as error:
                refused = f"{error.message} {error.body}" if error.status_code in REFUSALS else ""
                learned = learn(quirks, body, refused)
                if learned is None or not left:
                    # The client's exception holds the request, and with it the key.
                    raise failure_of(error, self._site) from None
                quirks = learned
            except (openai.OpenAIError, httpx2.HTTPError, TypeError, ValueError) as error:
                raise failure_of(error, self._site) from None
            else:
                self._quirks = quirks
                return found
        raise AssertionError  # the last try returns or raises

    async def _send(
        self, client: openai.AsyncOpenAI, body: dict[str, Any]
    ) -> tuple[Opened, TickStream]:
        """Give the response as soon as its headers are here, stripped to what is needed.

        By the client's general door: `chat.completions.create` converts the messages through its
        types, which takes as long as all the rest of the request (0.56 ms against 0.28 ms).

        The client's response objects hold the request with its whole prompt; a stream may live for
        an hour.
        """
        response = await client.post(
            address(client, "/chat/completions"),
            cast_to=httpx2.Response,
            body={"model": self._endpoint.model, **body, "stream": True},
            # The client hands the response out before its body is read.
            options={"headers": {"X-Stainless-Raw-Response": "stream"}},
        )
        stream: TickStream = response.extensions[TICKS]
        headers = dict(response.headers)
        return Opened(request_id=request_id(headers, self._site.secret), headers=headers), stream

    def _client(self, turn: Turn) -> openai.AsyncOpenAI:
        url = self._endpoint.url
        if isinstance(turn, GoOnFrom) and turn.flag is Prefill.PREFIX:
            url = _BETA.get(urlsplit(url).hostname or "", url)
        client = self._clients.get(url)
        if client is None:
            client = self._clients[url] = make_client(
                url, api_key=self._api_key, transport=self._transport, settings=self._settings
            )
        return client

    def _log(self, reading: Reading) -> None:
        counts = reading.counts()
        if counts["skipped"] or counts["repaired"]:
            logger.warning(
                "odd_events host=%s events=%d skipped=%d repaired=%d",
                self._site.host,
                counts["events"],
                counts["skipped"],
                counts["repaired"],
            )
