"""Groups of claimable jobs: those of one intake of one batch, found without a look at the jobs.

A walk over the index goes from each group to the next with one look, whether it has ten jobs or a
million, and over all groups of a paused batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.model import JobState
from tokenspool.store import bulk

#: Groups that one walk looks at, at most: 500 take 6 ms on PostgreSQL, on a busy machine.
MOST = 500
#: Gives a number from 0 up to, not including, 1.
Roll = Callable[[], float]
#: Above every id.
ABOVE = 2**63 - 1
#: Of the die that chooses where a walk begins.
_SIDES = 2**20
#: Of a table that has just been filled the planner knows nothing, and would rather read all of it.
#: What is switched off seems to cost so much that it would compile the statement first.
_BY_INDEX = "SELECT " + ", ".join(
    f"set_config('{name}', 'off', true)"
    for name in (
        "enable_seqscan",
        "enable_bitmapscan",
        "enable_sort",
        "enable_hashjoin",
        "enable_mergejoin",
        "jit",
    )
)
_j = t.job.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Claimable jobs of an endpoint that came into a batch together."""

    endpoint_id: int
    batch_id: int
    intake_id: int
    #: The best of any of its jobs.
    priority: int


def ready(states: Sequence[JobState], job: str) -> str:
    """Give the condition that the table called `job` in a statement is in one of the states."""
    return f"{job}.state IN ({', '.join(repr(state.value) for state in states)})"


def hidden() -> sa.ColumnElement[bool]:
    """Jobs of an unfinished enqueue or a paused batch."""
    unrevealed = sa.select(t.intake.c.id).where(~t.intake.c.revealed)
    paused = sa.select(t.batch.c.id).where(t.batch.c.paused)
    return _j.intake_id.in_(unrevealed) | _j.batch_id.in_(paused)


def find_by_index(connection: sa.Connection) -> None:
    """Let the rest of the transaction go by indexes, in their order; SQLite does so by itself."""
    if bulk.is_bulk(connection):
        connection.exec_driver_sql(_BY_INDEX)


def claimable_groups(
    connection: sa.Connection,
    endpoint_id: int,
    *,
    roll: Roll,
    states: Sequence[JobState] = t.CLAIMABLE,
) -> list[Group]:
    """Give the groups of an endpoint that have jobs in these states and may begin.

    Paused batches and unfinished enqueues are left out. Beyond `MOST` groups a part is given,
    beginning with the batch that `roll` chooses and going round, so that each has its turn.
    """
    asked = {"roll": int(roll() * _SIDES), "most": MOST, "above": ABOVE}
    rows = connection.execute(_walk(tuple(states)), {"endpoint": endpoint_id, **asked})
    return [
        Group(
            endpoint_id=endpoint_id,
            batch_id=row.batch_id,
            intake_id=row.intake_id,
            priority=row.priority,
        )
        for row in rows
    ]


def endpoints_with_claimable(connection: sa.Connection) -> set[int]:
    """Give the endpoints that have a claimable job outside of paused batches and enqueues."""
    return set(connection.execute(_ENDPOINTS).scalars())


_PAUSED = "EXISTS (SELECT 1 FROM batch AS b WHERE b.id = j.batch_id AND b.paused)"
_HIDDEN = "EXISTS (SELECT 1 FROM intake AS i WHERE i.id = j.intake_id AND NOT i.revealed)"
_ORDER = "ORDER BY f.batch_id, f.intake_id, f.priority DESC, f.id LIMIT 1"
_SEEN = f"j.batch_id, j.intake_id, j.priority, {_PAUSED}, {_HIDDEN}"
_OF_ENDPOINT = "FROM job AS f WHERE f.endpoint_id = :endpoint AND {ready}"
#: Round once: from `origin` to the end, then from the beginning to `origin`. Each step asks for the
#: next intake, else for the next batch: comparing both at once, SQLite reads all jobs of a group.
_WALK = f"""
WITH RECURSIVE
span (least, most) AS (
  SELECT (SELECT f.batch_id {_OF_ENDPOINT} ORDER BY f.batch_id LIMIT 1),
         (SELECT f.batch_id {_OF_ENDPOINT} ORDER BY f.batch_id DESC LIMIT 1)
),
origin (id) AS (
  SELECT least + (most - least + 1) * :roll / {_SIDES} FROM span
),
walk (batch_id, intake_id, priority, paused, hidden, seen) AS (
  SELECT {_SEEN}, 1 FROM job AS j WHERE j.id =
    (SELECT f.id {_OF_ENDPOINT} AND f.batch_id >= (SELECT id FROM origin) {_ORDER})
  UNION ALL
  SELECT {_SEEN}, w.seen + 1 FROM walk AS w JOIN job AS j ON j.id = COALESCE(
    CASE WHEN NOT w.paused THEN
      (SELECT f.id {_OF_ENDPOINT} AND f.batch_id = w.batch_id AND f.intake_id > w.intake_id
        {_ORDER}) END,
    (SELECT f.id {_OF_ENDPOINT} AND f.batch_id > w.batch_id
      AND f.batch_id < CASE WHEN w.batch_id < (SELECT id FROM origin)
        THEN (SELECT id FROM origin) ELSE :above END {_ORDER}),
    CASE WHEN w.batch_id >= (SELECT id FROM origin) THEN
      (SELECT f.id {_OF_ENDPOINT} AND f.batch_id < (SELECT id FROM origin) {_ORDER}) END)
  WHERE w.seen < :most
)
SELECT batch_id, intake_id, priority FROM walk WHERE NOT paused AND NOT hidden
"""  # noqa: S608 - names of our own


@cache
def _walk(states: tuple[JobState, ...]) -> sa.TextClause:
    return sa.text(_WALK.format(ready=ready(states, "f")))


_READY = f"FROM job AS f WHERE {ready(t.CLAIMABLE, 'f')}"
_ENDPOINTS = sa.text(f"""
WITH RECURSIVE walk (endpoint_id, batch_id, intake_id, paused, hidden) AS (
  SELECT j.endpoint_id, j.batch_id, j.intake_id, {_PAUSED}, {_HIDDEN} FROM job AS j
  WHERE j.id = (SELECT f.id {_READY} ORDER BY f.endpoint_id, f.batch_id, f.intake_id LIMIT 1)
  UNION ALL
  SELECT j.endpoint_id, j.batch_id, j.intake_id, {_PAUSED}, {_HIDDEN}
  FROM walk AS w JOIN job AS j ON j.id = COALESCE(
    CASE WHEN w.hidden AND NOT w.paused THEN
      (SELECT f.id {_READY} AND f.endpoint_id = w.endpoint_id AND f.batch_id = w.batch_id
        AND f.intake_id > w.intake_id ORDER BY f.intake_id LIMIT 1) END,
    CASE WHEN w.hidden OR w.paused THEN
      (SELECT f.id {_READY} AND f.endpoint_id = w.endpoint_id AND f.batch_id > w.batch_id
        ORDER BY f.batch_id, f.intake_id LIMIT 1) END,
    (SELECT f.id {_READY} AND f.endpoint_id > w.endpoint_id
      ORDER BY f.endpoint_id, f.batch_id, f.intake_id LIMIT 1))
)
SELECT DISTINCT endpoint_id FROM walk WHERE NOT paused AND NOT hidden
""")  # noqa: S608 - names of our own
