"""A way to PostgreSQL on which an answer gets lost: the server did it, and nobody hears."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Self

import sqlalchemy as sa


class Deaf:
    """Hands bytes on between one database's clients and its server, until it is told to lose."""

    def __init__(self, server: sa.URL) -> None:
        """Listen on a port of our own."""
        self._server = (server.host or "127.0.0.1", server.port or 5432)
        self._door = socket.create_server(("127.0.0.1", 0))
        # Nothing of it may be encrypted, or the statement could not be seen.
        self.url = server.set(host="127.0.0.1", port=self._door.getsockname()[1])
        self.url = self.url.update_query_dict({"sslmode": "disable"})
        self._word: bytes | None = None
        #: Whether an answer was lost.
        self.lost = False
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self._thread.join(30)

    def lose(self, word: bytes) -> None:
        """Lose the answer to the next thing that a client says with this word in it."""
        self._word = word

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._door.accept()
                with client, socket.create_connection(self._server) as server:
                    self._between(client, server)

    def _between(self, client: socket.socket, server: socket.socket) -> None:
        """Hand bytes on, for one client after the other."""
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ)
            ready.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    one = client if key.fileobj is client else server
                    said = one.recv(1 << 16)
                    if not said:
                        return
                    (server if one is client else client).sendall(said)
                    if one is client and self._word and self._word in said:
                        server.recv(1 << 16)  # it is done once the server answers
                        self._word, self.lost = None, True
                        return
