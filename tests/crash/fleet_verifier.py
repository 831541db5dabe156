"""What a fleet left in its PostgreSQL, for the same judge: none of the product's code is used."""

from __future__ import annotations

from typing import LiteralString

import psycopg
from psycopg.rows import DictRow, dict_row

from tests.crash.verifier import JOBS, SEGMENTS, Row, State, joined


def look_at_fleet(url: str) -> State:
    """Read the state on one snapshot, checking every segment on the way."""
    problems: list[str] = []
    with open_fleet(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return State(
            jobs=_rows(connection, JOBS),
            checkpoints={r["job_id"]: r for r in _rows(connection, "SELECT * FROM checkpoint")},
            texts=joined(_rows(connection, SEGMENTS), problems),
            counts=_rows(connection, "SELECT * FROM job_count"),
            attempts=_rows(connection, "SELECT * FROM attempt ORDER BY id"),
            seams=_rows(connection, "SELECT * FROM seam ORDER BY id"),
            problems=problems,
        )


def open_fleet(url: str) -> psycopg.Connection[DictRow]:
    """Connect to a database whose URL is SQLAlchemy's."""
    return psycopg.connect(url.replace("+psycopg", "", 1), row_factory=dict_row)


def _rows(connection: psycopg.Connection[DictRow], query: LiteralString) -> list[Row]:
    return connection.execute(query).fetchall()
