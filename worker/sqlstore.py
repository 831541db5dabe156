"""The database as the engine's store: its blocking operations, bound to one database and worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import sqlalchemy as sa

from tokenspool.database import Database
from tokenspool.model import Entry, Kind
from tokenspool.store import claims
from tokenspool.store.beat import commit_beat
from tokenspool.store.publishing import born
from tokenspool.store.text import read_text

T = TypeVar("T")
#: What is read of a text in one transaction, at least; the same as one query of folded text gives.
WINDOW_BYTES = 4 * 1024 * 1024


class SqlStore:
    """Fulfils `pipeline.ports.Store` on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        """Use an opened database."""
        self.database = database

    def commit(self, entries: Sequence[Entry]) -> frozenset[tuple[int, int]]:
        """See the port."""
        return commit_beat(self.database, entries)

    def text(
        self, job_id: int, *, edition: int, kind: Kind, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """See the port. Holds no transaction and no connection while the caller has a piece.

        Whoever uploads may keep a piece for a minute, and a transaction that stands still for so
        long is ended by the database. At most `WINDOW_BYTES` and one query's rows are in memory.
        """
        position, ended = start, False
        while not ended:
            with self.database.read() as connection:
                pieces = read_text(
                    connection, job_id, edition=edition, kind=kind, start=position, stop=stop
                )
                window, ended = _window(pieces)
            position += sum(map(len, window))
            window.reverse()
            while window:
                yield window.pop()

    def stands(self, job_id: int, epoch: int) -> bool:
        """See the port."""
        with self.database.read() as connection:
            return not claims.lost(connection, [(job_id, epoch)])

    def born(self, job_id: int) -> str:
        """See the port: the moment the job was enqueued."""
        with self.database.read() as connection:
            return born(connection, job_id)

    def write(self, operation: Callable[[sa.Connection], T]) -> T:
        """Run an operation in one write transaction."""
        with self.database.write() as connection:
            return operation(connection)

    def read(self, operation: Callable[[sa.Connection], T]) -> T:
        """Run an operation on one snapshot."""
        with self.database.read() as connection:
            return operation(connection)


def _window(pieces: Iterator[bytes]) -> tuple[list[bytes], bool]:
    """Take a window's worth of pieces, and tell whether they were the last."""
    window, size = [], 0
    for piece in pieces:
        window.append(piece)
        size += len(piece)
        if size >= WINDOW_BYTES:
            return window, False
    return window, True
