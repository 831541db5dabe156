"""Reading one answer of the chat wire: from a response's body to its proven end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx2

from pipeline.ports import Delta, Finish
from pipeline.sources.chunks import parse, to_chunk
from pipeline.sources.failures import EXCERPT_BYTES, Site, error_in_answer, excerpt, failure_of
from pipeline.sources.reply import Reply
from pipeline.sources.settings import SourceSettings
from pipeline.sources.sse import SseReader, is_foreign
from pipeline.sources.ticks import TickStream
from tokenspool.errors import ErrorKind, StreamError

#: How long the connection of a finished answer may take to end, to serve another request.
END_S = 0.1


class Reading:
    """Pulls deltas out of one response's body. Use once; whoever made the body closes it."""

    def __init__(self, body: TickStream, settings: SourceSettings, site: Site) -> None:
        """Begin before the first byte."""
        self._body = body
        self._settings = settings
        self._site = site
        self._reader = SseReader(settings.max_event_bytes)
        self._reply = Reply(settings, site)
        self._ended = False
        #: The first bytes, until there is an event.
        self._head = b""
        #: The whole answer, when it is a document and no event stream.
        self._document: list[bytes] | None = None
        self._size = 0
        self._deadline = 0.0

    async def pull(self) -> list[Delta] | None:
        """Wait for more and give it, perhaps nothing; None after the end. Raises StreamError."""
        if self._ended:
            return None
        if self._reply.is_over:
            self._ended = True
            if self._reply.failure is None:
                await self._run_out()
            return self._reply.rest()
        data = await (self._next() if self._reply.finish is None else self._next_after_finish())
        if data:
            return self._take(data)
        self._ended = True
        return self._take_last()

    def ending(self) -> Finish:
        """Give the proven end; raises what ended the answer instead."""
        return self._reply.ending()

    async def _next(self) -> bytes:
        try:
            # Until something has come nobody rests: time to the first token is measured here.
            return await self._body.read(rested=self._reply.begun)
        except httpx2.TransportError as error:
            raise failure_of(error, self._site, reading=True) from None

    async def _next_after_finish(self) -> bytes:
        """Wait a little for the usage; the end is proven already, so a fault is only its end.

        Not if the answer went on behind its finish reason: then a fault is a fault.
        """
        loop = asyncio.get_running_loop()
        self._deadline = self._deadline or loop.time() + self._settings.drain_s
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._body.read()
        except TimeoutError:
            self._body.close()
            if self._reply.late:
                msg = (
                    f"{self._site.host} went on after a finish reason and then was silent"
                    f" for {self._settings.drain_s:g} s, without [DONE]"
                )
                raise StreamError(ErrorKind.INCOMPLETE, msg) from None
        except httpx2.TransportError as error:
            self._body.close()
            if self._reply.late:
                raise failure_of(error, self._site, reading=True) from None
        return b""

    async def _run_out(self) -> None:
        """Read on to the end of the body, so that its connection can be used again."""
        try:
            async with asyncio.timeout(END_S):
                while await self._body.read():
                    pass
        except (TimeoutError, httpx2.TransportError):
            self._body.close()

    def _take(self, data: bytes) -> list[Delta]:
        reader, reply = self._reader, self._reply
        if not reader.events and self._is_document(data):
            return []
        deltas = reply.take(reader.feed(data))
        if reader.events:
            self._head = b""
        if deltas:
            # Some servers set a finish reason on every chunk.
            self._deadline = 0.0
        if reader.failure is not None and reply.failure is None:
            reply.failure = reader.failure
        return deltas

    def _is_document(self, data: bytes) -> bool:
        """Find out by the first bytes whether this is an event stream; collect it if not."""
        if self._document is None:
            unknown = not self._head.strip()
            self._head += data[: EXCERPT_BYTES - len(self._head)]
            if not (unknown and is_foreign(self._head)):
                return False
            self._document = []
        self._document.append(data)
        self._size += len(data)
        if self._size > self._settings.max_event_bytes:
            most = self._settings.max_event_bytes
            msg = f"{self._site.host} sent a document larger than max_event_bytes ({most:,})"
            self._reply.failure = StreamError(ErrorKind.TOO_LARGE, msg)
        return True

    def _take_last(self) -> list[Delta]:
        """Take what the body's end completes."""
        reply = self._reply
        if self._document is not None:
            deltas = self._take_document(b"".join(self._document))
        else:
            rest = self._reader.rest()
            deltas = reply.take([rest]) if rest is not None else []
            if not reply.is_over and (reply.finish is None or reply.late):
                reply.failure = self._explain()
        return deltas + reply.rest()

    def _take_document(self, body: bytes) -> list[Delta]:
        """Take a whole completion, an error, or chunks of one line each."""
        document, _ = parse(body)
        if isinstance(document, list) and document:
            document = document[0]
        if isinstance(document, dict):
            chunk = to_chunk(document)
            if chunk.choices or chunk.error:
                return self._reply.take_whole(chunk)
        lines = [line for line in body.split(b"\n") if line.strip()]
        if document is None and len(lines) > 1 and isinstance(parse(lines[0])[0], dict):
            return self._reply.take(lines)
        self._reply.failure = self._malformed("a document that is no completion", body)
        return []

    def _explain(self) -> StreamError | None:
        """Say why a stream ended without a finish, if it holds a reason."""
        reader = self._reader
        if reader.stray is not None:
            document, _ = parse(reader.stray)
            error = to_chunk(document).error if isinstance(document, dict) else None
            if error:
                return error_in_answer(error, self._site)
        if not reader.events and not reader.comments and self._head.strip():
            return self._malformed("something that is no event stream", self._head)
        return None

    def _malformed(self, what: str, body: bytes) -> StreamError:
        shown = excerpt(body, self._site.secret)[:120]
        return StreamError(ErrorKind.MALFORMED, f"{self._site.host} sent {what}: {shown}")

    def counts(self) -> Mapping[str, int]:
        """Give what is worth a line in the log: events, comments, skipped, repaired."""
        reader, reply = self._reader, self._reply
        return {
            "events": reader.events,
            "comments": reader.comments,
            "skipped": reply.skipped,
            "repaired": reply.repaired,
        }
