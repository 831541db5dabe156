"""The transport under the openai client: aiohttp's sockets, read in ticks."""

from __future__ import annotations

import asyncio
import io
import itertools
import socket

import aiohttp
import httpx2
from multidict import CIMultiDict
from yarl import URL

from pipeline.ports import Pace
from pipeline.sources.proxies import Proxies
from pipeline.sources.ticks import TickStream

#: Under the five seconds after which common servers close an idle connection: a request sent into
#: one that is just being closed fails, and nobody knows whether it was billed.
KEEPALIVE_S = 4.0
#: What aiohttp holds of one response; a paused one holds nothing.
BUFFER_BYTES = 64 * 1024
#: From here on a body is sent in pieces, not in one write.
LARGE_BODY_BYTES = 512 * 1024
#: A silent connection is asked whether it still lives, before a NAT forgets it.
KEEPALIVE_IDLE_S = 60
#: Where a response keeps its stream, past the layers that would copy each piece.
TICKS = "tokenspool.ticks"

#: Set by aiohttp itself, or of no use to it.
_OWN_HEADERS = frozenset({"accept-encoding", "connection", "content-length", "transfer-encoding"})
#: No longer true once aiohttp has unpacked the body.
_ENCODED = frozenset({b"content-encoding", b"content-length"})


class TickTransport(httpx2.AsyncBaseTransport):
    """Sends requests over HTTP/1.1, one connection each, and reads the answers in ticks.

    Certificates are those of the system (`SSL_CERT_FILE` counts), proxies those of the environment.
    """

    def __init__(self, *, pace: Pace, receive_bytes: int) -> None:
        """Fix the receive buffer of every socket: what may gather while it rests."""
        self._pace = pace
        self._receive_bytes = receive_bytes
        # A full buffer gives 0.7 to 2.2 times its size, by how the kernel packs small writes. At a
        # quarter of it half a second of an ordinary stream already looked fast (2,000 streams).
        self._enough = receive_bytes * 3 // 4
        self._proxies = Proxies()
        self._keys = itertools.count()
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; give the response as soon as its headers are here."""
        session = self._session or self._open()
        timeout = request.extensions.get("timeout", {})
        proxy = self._proxies.find(request.url.scheme, request.url.host)
        try:
            response = await session.request(
                request.method,
                _url(request.url),
                headers=_headers(request),
                data=_body(await request.aread()),
                allow_redirects=False,
                proxy=proxy.url if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
                timeout=aiohttp.ClientTimeout(
                    connect=timeout.get("connect"), sock_read=timeout.get("read")
                ),
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failed(error) from error
        stream = TickStream(response, pace=self._pace, key=next(self._keys), enough=self._enough)
        packed = "Content-Encoding" in response.headers
        return httpx2.Response(
            response.status,
            headers=[
                (name, value)
                for name, value in response.raw_headers
                if not (packed and name.lower() in _ENCODED)
            ],
            stream=stream,
            extensions={
                "http_version": b"HTTP/1.1",
                "reason_phrase": (response.reason or "").encode("ascii", "replace"),
                TICKS: stream,
            },
        )

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEPALIVE_S, socket_factory=self._make_socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=BUFFER_BYTES,
            skip_auto_headers=("Accept", "User-Agent"),
        )
        return self._session

    def _make_socket(self, address: tuple[object, ...]) -> socket.socket:
        family, kind, protocol = address[:3]
        made = socket.socket(family, kind, protocol)  # type: ignore[arg-type]  # as getaddrinfo gives
        try:
            # Before connecting: the window is agreed on in the handshake.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        except OSError:
            made.close()
            raise
        return made


def _url(url: httpx2.URL) -> URL:
    """Give the URL without a user and a password: they are in the headers by now."""
    if url.userinfo:
        url = url.copy_with(username=None, password=None)
    return URL(str(url), encoded=True)


def _headers(request: httpx2.Request) -> CIMultiDict[str]:
    headers = CIMultiDict(
        (name, value)
        for name, value in request.headers.multi_items()
        if name.lower() not in _OWN_HEADERS
    )
    # Packed events arrive when the packer's block is full, not when they were written.
    headers["Accept-Encoding"] = "identity"
    return headers


def _body(content: bytes) -> bytes | io.BytesIO | None:
    if len(content) > LARGE_BODY_BYTES:
        return io.BytesIO(content)
    return content or None


def _failed(error: Exception) -> httpx2.TransportError:  # noqa: PLR0911 - one return per kind
    """Say why there is no response, in the words of the client's interface."""
    said = str(error) or type(error).__name__
    match error:
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return httpx2.ProxyError(said)
        case aiohttp.ConnectionTimeoutError():
            return httpx2.ConnectError("nothing answered in time")
        case aiohttp.ClientConnectorError():
            # Its text names the host again, and our settings of TLS.
            return httpx2.ConnectError(error.strerror or str(error.os_error))
        case aiohttp.ClientConnectorCertificateError():
            return httpx2.ConnectError(str(error.certificate_error))
        case TimeoutError() | asyncio.TimeoutError():
            return httpx2.ReadTimeout(said)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | ValueError():
            return httpx2.UnsupportedProtocol(said)
        case aiohttp.ServerDisconnectedError():
            return httpx2.RemoteProtocolError("the server closed the connection without an answer")
        case aiohttp.ClientResponseError():
            return httpx2.RemoteProtocolError("the server answered with something that is not HTTP")
        case _:
            return httpx2.ReadError(said)
