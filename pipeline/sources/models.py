"""What models an endpoint has: asked before a batch begins, and by the doctor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx2
import openai

from pipeline.sources.chunks import parse
from pipeline.sources.client import make_client
from pipeline.sources.failures import Site, failure_of
from pipeline.sources.settings import SourceSettings
from pipeline.sources.ticks import Unpaced
from pipeline.sources.transport import TickTransport
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Endpoint

#: A list is short; a server that takes longer is not asked again.
ANSWER_S = 15.0
UNAUTHORIZED, NOT_FOUND = 401, 404


async def list_models(
    endpoint: Endpoint, *, api_key: str, settings: SourceSettings | None = None
) -> list[str]:
    """Give the names of an endpoint's models, as it lists them. Raises StreamError."""
    site = Site.of(endpoint.url, api_key)
    async with _client(endpoint, api_key, settings) as client:
        document = await _get(client, "/models", site)
    return _names(document)


async def knows_model(
    endpoint: Endpoint, *, api_key: str, settings: SourceSettings | None = None
) -> bool | None:
    """Tell whether an endpoint has its model; None when it does not say.

    Raises StreamError only where no request could succeed: no connection, or the key is refused.
    """
    site = Site.of(endpoint.url, api_key)
    async with _client(endpoint, api_key, settings) as client:
        try:
            names = _names(await _get(client, "/models", site))
        except StreamError as error:
            if _is_hopeless(error):
                raise
            return None
        if endpoint.model in names:
            return True
        try:
            # Aliases are often not on the list, but found by name.
            await _get(client, f"/models/{quote(endpoint.model, safe='')}", site)
        except StreamError as error:
            # An empty list says nothing: the server may be a gateway that lists none.
            return False if error.status == NOT_FOUND and names else None
    return True


async def _get(client: openai.AsyncOpenAI, path: str, site: Site) -> object:
    """Give the JSON at a path, None if it is none."""
    try:
        async with asyncio.timeout(ANSWER_S):
            response = await client.get(path, cast_to=httpx2.Response)
    except TimeoutError:
        msg = f"{site.host} did not list its models within {ANSWER_S:g} s"
        raise StreamError(ErrorKind.FIRST_BYTE_TIMEOUT, msg) from None
    except (openai.OpenAIError, httpx2.HTTPError) as error:
        raise failure_of(error, site) from None
    return parse(response.content)[0]


def _names(document: object) -> list[str]:
    """Read a list of models: OpenAI's `data`, a bare list, or other servers' `models`."""
    if isinstance(document, dict):
        document = document.get("data") or document.get("models")
    if not isinstance(document, list):
        return []
    names = (one.get("id") or one.get("name") if isinstance(one, dict) else one for one in document)
    return [name for name in names if isinstance(name, str)]


def _is_hopeless(error: StreamError) -> bool:
    unreachable = error.kind is ErrorKind.CONNECT and error.status is None
    return unreachable or error.status == UNAUTHORIZED


@asynccontextmanager
async def _client(
    endpoint: Endpoint, api_key: str, settings: SourceSettings | None
) -> AsyncIterator[openai.AsyncOpenAI]:
    settings = settings or SourceSettings()
    transport = TickTransport(pace=Unpaced(), receive_bytes=settings.receive_bytes)
    try:
        yield make_client(endpoint.url, api_key=api_key, transport=transport, settings=settings)
    finally:
        await transport.aclose()
