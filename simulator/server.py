"""The server: connections, and running them until somebody says stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from simulator.doors import Doors
from simulator.flow import Delivery, Flow
from simulator.refusal import Refusal
from simulator.settings import SimSettings
from simulator.steps import Break
from simulator.wheel import Wheel
from simulator.wire import Reply, Request, RequestReader

if sys.platform != "win32":
    import fcntl
    import termios

#: What a client that does not read may keep waiting here. In all it is bounded by the streams.
HIGH_WATER_BYTES = 65_536
#: A benchmark opens thousands of connections at once.
_BACKLOG = 4096
#: How long a cut waits for the bytes before it to arrive.
_CUT_PATIENCE_S = 5.0
_CUT_LOOK_S = 0.001
#: On, with no time to wait: closing resets.
_RESET = struct.pack("ii", 1, 0)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """What all connections of a server share."""

    settings: SimSettings
    doors: Doors
    wheel: Wheel
    connections: set[Connection] = field(default_factory=set)


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, everything: Everything) -> None:
        self._all = everything
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader()
        self._flow: Flow | None = None
        self._keeps_alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.write = self._transport.write
        self._all.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        del exc
        self._all.connections.discard(self)
        if self._flow is not None:
            self._flow.lose()

    def pause_writing(self) -> None:
        """See asyncio."""
        if self._flow is not None:
            self._flow.pause()

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._flow is not None:
            self._flow.resume()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._reader.feed(data)
        if self._flow is None:
            self._serve()
        else:
            # One request ahead is enough; the rest waits in the client's socket.
            self._transport.pause_reading()

    def cut(self, how: Break) -> None:
        """Break the connection once all bytes have left."""
        self._look_to_cut(how, self._loop.time() + _CUT_PATIENCE_S)

    def abort(self) -> None:
        """Leave the client alone, at once."""
        self._transport.abort()

    def answered(self) -> None:
        """Go on with the next request, if one is allowed."""
        self._flow = None
        if self._transport.is_closing():
            return
        if not self._keeps_alive:
            self._transport.close()
            return
        self._transport.resume_reading()
        self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """Answer the requests that are there, one after the other."""
        while self._flow is None and not self._transport.is_closing():
            try:
                request = self._reader.next()
            except Refusal as refusal:
                # What follows cannot be told from the rest of this request.
                self._keeps_alive = False
                self._refuse(refusal)
                self._transport.close()
                return
            if request is None:
                if self._reader.expects_continue:
                    self._reader.expects_continue = False
                    self.write(_CONTINUE)
                return
            self._answer(request)

    def _answer(self, request: Request) -> None:
        self._keeps_alive = request.keeps_alive
        try:
            reply = self._all.doors.open(request)
        except Refusal as refusal:
            self._refuse(refusal)
        else:
            if not isinstance(reply, Reply):
                self._begin(reply)
                return
            self.write(reply.data())
        if not self._keeps_alive:
            self._transport.close()

    def _begin(self, delivery: Delivery) -> None:
        self._flow = Flow(
            delivery,
            self,
            loop=self._loop,
            wheel=self._all.wheel,
            rate=self._all.settings.rate if delivery.is_counted else 0.0,
            ended=self._all.doors.counts.ended,
        )
        self._flow.start()

    def _refuse(self, refusal: Refusal) -> None:
        headers = {} if refusal.retry_after is None else {"retry-after": refusal.retry_after}
        self.write(Reply(body=refusal.body, status=refusal.status, headers=headers).data())

    def _look_to_cut(self, how: Break, until: float) -> None:
        if self._transport.is_closing():
            return
        if self._is_written() or self._loop.time() >= until:
            self._break(how)
        else:
            self._loop.call_later(_CUT_LOOK_S, self._look_to_cut, how, until)

    def _is_written(self) -> bool:
        """Tell whether the client's kernel has all bytes; a reset would take them back."""
        if self._transport.get_write_buffer_size():
            return False
        if sys.platform == "win32":
            return True
        left = bytes(4)
        with contextlib.suppress(OSError, ValueError):
            left = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, left)
        return int.from_bytes(left, sys.byteorder) == 0

    def _break(self, how: Break) -> None:
        if how == "fin":
            self._transport.close()
            return
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    @property
    def _socket(self) -> socket.socket:
        return cast("socket.socket", self._transport.get_extra_info("socket"))


async def serve(settings: SimSettings, ready: Callable[[str], None]) -> None:
    """Serve until cancelled; tells `ready` the base URL once connections are accepted."""
    loop = asyncio.get_running_loop()
    everything = Everything(settings=settings, doors=Doors(settings), wheel=Wheel(loop))
    server = await loop.create_server(
        lambda: Connection(everything), settings.host, settings.port, backlog=_BACKLOG
    )
    host, port = server.sockets[0].getsockname()[:2]
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
    try:
        await loop.create_future()
    finally:
        server.close()
        for connection in tuple(everything.connections):
            connection.abort()
        everything.wheel.stop()
