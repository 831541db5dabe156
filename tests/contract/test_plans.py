"""What is asked every few seconds finds its rows by an index, even of a table just filled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.store import claims, ownership, reads

#: Enough that PostgreSQL, which knows nothing of them yet, would rather read all than look up.
JOBS = 20_000
ASKED = {
    "status": reads.status,
    "failures": reads.failures,
    "wake_due": claims.wake_due,
    "claim_complete": partial(claims.claim_complete, worker="w", limit=10),
    "reap": partial(ownership.reap, max_crashes=3),
}


@pytest.fixture
def filled(database: Database, tmp_path: Path) -> Database:
    """Give a database with many jobs that have just come, one of them a dead worker's."""
    seeds = Seeds(database=database, root=tmp_path)
    seeds.enqueue("a", "b")
    seeds.claim(1, worker="dead")
    made = {"id", "custom_id", "name", "name_key", "state", "owner"}
    same = ", ".join(column.name for column in t.job.c if column.name not in made)
    many = (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL"  # noqa: S608 - names of our own
        " SELECT i + 1 FROM n WHERE i < :jobs)"
        f" INSERT INTO job (custom_id, name, name_key, state, {same})"
        f" SELECT 'j' || i, 'j' || i, 'j' || i, 'pending', {same}"
        " FROM n, job WHERE custom_id = 'b'"
    )
    with database.write() as connection:
        connection.execute(sa.text(many), {"jobs": JOBS})
    return database


@pytest.mark.parametrize("name", ASKED)
def test_the_table_of_jobs_is_not_read_through(filled: Database, name: str) -> None:
    """Right after an enqueue, before the server has looked at the new rows."""
    work: Callable[[sa.Connection], object] = ASKED[name]  # type: ignore[assignment]
    how = "EXPLAIN QUERY PLAN" if filled.kind == "sqlite" else "EXPLAIN"
    plans: list[str] = []

    def explain(_connection: object, cursor: Any, said: str, values: Any, *_: Any) -> None:
        if said.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            one = values[0] if isinstance(values, list) else values
            cursor.execute(f"{how} {said}", one)
            plans.extend(str(row[-1]) for row in cursor.fetchall())

    with filled.write() as connection:
        sa.event.listen(connection, "before_cursor_execute", explain)
        work(connection)

    assert [line for line in plans if "job" in line]
    assert not [line for line in plans if _reads_all(line)]


def _reads_all(line: str) -> bool:
    if "Seq Scan on job" in line:
        return "Seq Scan on job_count" not in line
    return line.strip() in {"SCAN job", "SCAN f", "SCAN j"}
