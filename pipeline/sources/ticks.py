"""A response body that is read in ticks: the socket rests while the kernel gathers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import httpx2

from pipeline.ports import Pace

#: What a body that is read as a whole may hold, a list of models say.
MAX_WHOLE_BYTES = 8 * 1024 * 1024
#: Of a refusal's text this much is read, for this long: its status says the most of it.
MAX_REFUSAL_BYTES = 64 * 1024
REFUSAL_S = 5.0
_CLOSED = "the connection was closed in the middle of the answer"


class TickStream(httpx2.AsyncByteStream):
    """One response's body. Between two reads its socket is paused, so the sender feels it.

    Read to its end, its connection is free for the next request; closed before, it is closed.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, *, pace: Pace, key: int, enough: int
    ) -> None:
        """`enough` bytes in one read mean a fast stream: it is not made to wait."""
        self._response = response
        self._content = response.content
        connection = response.connection
        self._protocol = connection.protocol if connection is not None else None
        self._socket = connection.transport if connection is not None else None
        # Only we resume a connection, once a tick. Left to itself aiohttp resumes its parser behind
        # every chunk that is taken out of its buffer: a twelfth of all the processor's time.
        if hasattr(self._content, "_low_water"):
            self._content._low_water = 0  # noqa: SLF001 - there is no other way to it
        if self._socket is not None and self._socket.get_extra_info("ssl_object") is not None:
            # Under TLS a paused transport goes on taking in 256 KiB of what is still encrypted,
            # beside every budget, and wakes the loop for each record of it.
            self._socket.set_read_buffer_limits(high=1, low=0)  # type: ignore[attr-defined]
        self._pace = pace
        self._key = key
        self._enough = enough
        self._paused = False
        self._fast = False

    async def read(self, *, rested: bool = False) -> bytes:
        """Give what has come, at least one byte; b"" at the end. `rested` waits for the tick first.

        Raises `httpx2.RemoteProtocolError` when the body is cut.
        """
        if self._paused:
            if rested and not self._fast:
                await self._pace.tick(self._key)
            self._resume()
        try:
            data = await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise _cut(error) from error
        except RuntimeError as error:
            if self._protocol is not None and self._protocol.connected:
                raise
            # aiohttp's way to say that the connection went while nothing was being read.
            raise httpx2.RemoteProtocolError(_CLOSED) from error
        self._fast = len(data) >= self._enough
        self._pause()
        return data

    def _pause(self) -> None:
        """Let the kernel gather; the parser has nothing left to hold back."""
        # After its end the connection may serve another request already: it is not ours to pause.
        if self._socket is not None and not self._content.is_eof():
            self._socket.pause_reading()
            self._paused = True

    def _resume(self) -> None:
        """Take in again, by way of the protocol: its parser may hold what came before the pause."""
        self._paused = False
        if self._protocol is not None:
            self._protocol.resume_reading()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the whole body, for those who want all of it.

        Bounded; of a refusal what comes of it: a cut text must not hide the status.
        """
        if self._response.status >= 400:  # noqa: PLR2004 - refused
            yield await self._refusal()
            return
        size = 0
        while data := await self.read():
            size += len(data)
            if size > MAX_WHOLE_BYTES:
                msg = f"the answer is longer than {MAX_WHOLE_BYTES:,} bytes"
                raise httpx2.ReadError(msg)
            yield data

    async def _refusal(self) -> bytes:
        text = b""
        with contextlib.suppress(TimeoutError, httpx2.TransportError):
            async with asyncio.timeout(REFUSAL_S):
                while len(text) < MAX_REFUSAL_BYTES and (data := await self.read()):
                    text += data
        return text[:MAX_REFUSAL_BYTES]

    async def aclose(self) -> None:
        """Close the connection unless the body was read to its end."""
        self.close()

    def close(self) -> None:
        """Close without waiting; twice is once."""
        self._socket = self._protocol = None
        if not self._response.closed:
            self._response.close()


def _cut(error: Exception) -> httpx2.TransportError:
    """Say how reading a body ended, in the words of the client's interface."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return httpx2.ReadTimeout("nothing came in time")
    if isinstance(error, aiohttp.ClientPayloadError):
        return httpx2.RemoteProtocolError(_CLOSED)
    return httpx2.ReadError(f"the connection was lost: {error}")


class Unpaced:
    """A pace without rests: whoever reads, reads at once. Fulfils `pipeline.ports.Pace`."""

    async def tick(self, key: int) -> None:
        """Return at once."""
