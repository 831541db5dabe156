"""Write transactions that leave room for others: a running worker's beat must not starve."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from tokenspool.database import Database, retrying

T = TypeVar("T")
#: Rows of one transaction at most, and how long one should take.
MAX_ROWS, STEP_S = 1000, 0.1
#: The same where a writer is in nobody's way: each transaction costs a dozen round trips.
_MAX_ROWS, _STEP_S = {"postgresql": 2000}, {"postgresql": 0.5}


def reading(database: Database, operation: Callable[[sa.Connection], T]) -> T:
    """Run one read, again while the database is away."""

    def once() -> T:
        with database.read() as connection:
            return operation(connection)

    result: T = retrying(once)
    return result


class Turns:
    """Takes turns: as long as it held the database, it leaves it free before the next time."""

    def __init__(self, database: Database, pause: Callable[[float], None]) -> None:
        """Nothing is held yet."""
        self.database = database
        self._pause = pause
        self._held_s = 0.0
        self._freed_at = 0.0
        self._most = _MAX_ROWS.get(database.kind, MAX_ROWS)
        self._step_s = _STEP_S.get(database.kind, STEP_S)
        #: New rows that fit into a step, by the last transactions.
        self.rows = MAX_ROWS

    def write(self, operation: Callable[[sa.Connection], T], *, rows: int = 0) -> T:
        """Run one write transaction, again while the database is busy, full or away."""
        wait = self._held_s - (time.monotonic() - self._freed_at)
        # On PostgreSQL a writer is in nobody's way.
        if wait > 0 and self.database.kind == "sqlite":
            self._pause(min(wait, STEP_S))
        took = 0.0

        def once() -> T:
            nonlocal took
            with self.database.write() as connection:
                # From here on nobody else can write; waiting for the lock is not holding it.
                began = time.monotonic()
                result = operation(connection)
            took = time.monotonic() - began
            return result

        result: T = retrying(once)
        self._held_s, self._freed_at = took, time.monotonic()
        if rows:
            fitting = int(rows * self._step_s / max(took, 0.001))
            self.rows = max(1, min(self._most, fitting, 2 * self.rows))
        return result
