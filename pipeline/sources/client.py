"""The openai client for an endpoint, on our own transport."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import httpx2
import openai

from pipeline.sources.settings import SourceSettings
from pipeline.sources.transport import TickTransport

#: For Azure addresses that name a deployment and no version.
AZURE_VERSION = "2024-10-21"


def make_client(
    url: str, *, api_key: str, transport: TickTransport, settings: SourceSettings
) -> openai.AsyncOpenAI:
    """Give a client that never tries again by itself: retries are ours, and on record.

    Only connecting has a limit here; how long a stream may be silent is for the engine to say.
    """
    parts = urlsplit(url)
    base = parts._replace(query="", fragment="").geturl()
    query: dict[str, object] = {**dict(parse_qsl(parts.query))}
    timeout = httpx2.Timeout(None, connect=settings.connect_timeout_s)
    http = httpx2.AsyncClient(
        transport=transport, trust_env=False, timeout=timeout, follow_redirects=True
    )
    host = parts.hostname or ""
    if host.endswith((".openai.azure.com", ".cognitiveservices.azure.com")) and (
        "/openai/deployments/" in parts.path or not parts.path.strip("/")
    ):
        return openai.AsyncAzureOpenAI(
            base_url=base if parts.path.strip("/") else f"{base.rstrip('/')}/openai",
            api_key=api_key,
            api_version=str(query.get("api-version", AZURE_VERSION)),
            max_retries=0,
            timeout=timeout,
            http_client=http,
        )
    client = openai.AsyncOpenAI(
        base_url=base,
        api_key=api_key,
        default_query=query,
        max_retries=0,
        timeout=timeout,
        http_client=http,
    )
    if not host.endswith("openai.com"):
        # Taken from the environment for OpenAI; nobody else's business.
        client.organization = client.project = None
    return client


def address(client: openai.AsyncOpenAI, path: str) -> str:
    """Give what to post to: the whole address, which costs a fifth of a request less to build.

    Azure's client looks its paths up, and puts the deployment before them.
    """
    if isinstance(client, openai.AsyncAzureOpenAI):
        return path
    return str(client.base_url).rstrip("/") + path
