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
        """See the port."""
        with self.database.read() as connection:
            yield from read_text(
                connection, job_id, edition=edition, kind=kind, start=start, stop=stop
            )

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
