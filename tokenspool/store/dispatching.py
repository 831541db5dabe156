"""The window: jobs that a fleet is told of, no more of them than its free slots will soon take.

A dispatched job differs from a pending one only in that a hint for it was published. Free slots
claim both alike, so that a lost hint costs nothing but time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import now
from tokenspool.errors import UsageError
from tokenspool.model import JobState
from tokenspool.store import bulk
from tokenspool.store.choosing import CHANCE, Chance, Choice, choose
from tokenspool.store.counts import Tally
from tokenspool.store.groups import endpoints_with_claimable, find_by_index

#: Dispatched jobs at most: more hints than this only make the broker's queue long and stale.
MOST = 10_000
#: Hints for each free slot: one that it takes now, one for when it falls free again.
_PER_SLOT = 2
#: "tokenwin" in ASCII: who holds this lock fills the window, the others need not.
_KEY = 0x746F6B656E77696E
_b, _e, _j, _w = t.batch.c, t.endpoint.c, t.job.c, t.worker.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What is published of a job: that there is work. Whoever takes it claims the best job."""

    job_id: int
    custom_id: str
    #: The batch's name.
    batch: str


def fill_window(
    connection: sa.Connection,
    *,
    lookahead: int = 0,
    hint_s: float = 30.0,
    chance: Chance = CHANCE,
) -> list[Hint]:
    """Dispatch the best pending jobs until the window is full; give their hints, best first.

    The window is twice the free slots of all living workers and `lookahead`, at most `MOST`.
    Dispatched jobs that nobody claimed within `hint_s` seconds go back to pending before, and may
    be dispatched again. The hints may be published once the transaction is committed; it gives
    none while another one is at this. Raises `UsageError` on SQLite, which has no fleet.
    """
    _check(connection)
    if not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_KEY))).scalar():
        return []
    find_by_index(connection)
    tally = Tally()
    _take_back(connection, tally)
    room = min(MOST, _PER_SLOT * _free_slots(connection) + lookahead) - dispatched(connection)
    hints: list[Hint] = []
    if room > 0:
        hints = _dispatch(connection, room, hint_s=hint_s, tally=tally, chance=chance)
    tally.write(connection)
    return hints


def dispatched(connection: sa.Connection) -> int:
    """Count the jobs whose hints are published and not taken; a window's worth of rows at most."""
    _check(connection)
    count = sa.select(sa.func.count()).select_from(t.job)
    return int(connection.execute(count.where(t.has_state(JobState.DISPATCHED))).scalar_one())


def _check(connection: sa.Connection) -> None:
    if connection.dialect.name != "postgresql":
        msg = "jobs in SQLite are worked off by `tokenspool run`: a fleet needs PostgreSQL (--db)"
        raise UsageError(msg)


def _take_back(connection: sa.Connection, tally: Tally) -> None:
    """Return what nobody took to pending. One that is just being claimed is left alone."""
    late = (
        sa.select(_j.id, _j.batch_id, _j.priority)
        .where(t.has_state(JobState.DISPATCHED), _j.run_at <= now())
        .with_for_update(skip_locked=True)
    )
    state = JobState.DISPATCHED
    rows = connection.execute(late).mappings()
    chosen = [Choice(**row, state=state) for row in rows]
    _move(connection, chosen, JobState.PENDING, run_at=None, tally=tally)


def _free_slots(connection: sa.Connection) -> int:
    free = sa.func.greatest(_w.slots - _w.streams, 0)
    living = sa.select(sa.func.coalesce(sa.func.sum(free), 0)).where(
        _w.state == "running", _w.lease_until > now()
    )
    return int(connection.execute(living).scalar_one())


def _dispatch(
    connection: sa.Connection, room: int, *, hint_s: float, tally: Tally, chance: Chance
) -> list[Hint]:
    """Dispatch for each endpoint that takes work its share; what one leaves goes to the others."""
    waiting = _open_endpoints(connection)
    chance.shuffle(waiting)
    found: list[tuple[Choice, str]] = []
    while waiting and len(found) < room:
        missing, again = room - len(found), []
        for at, endpoint_id in enumerate(waiting):
            share = missing // len(waiting) + (at < missing % len(waiting))
            if not share:
                again.append(endpoint_id)
                continue
            chosen = choose(
                connection,
                endpoint_id=endpoint_id,
                limit=share,
                states=(JobState.PENDING,),
                chance=chance,
            )
            run_at = now() + hint_s
            custom_ids = _move(connection, chosen, JobState.DISPATCHED, run_at=run_at, tally=tally)
            found += [(one, custom_ids[one.id]) for one in chosen if one.id in custom_ids]
            if len(chosen) == share:
                again.append(endpoint_id)
        waiting = again
    names = _batch_names(connection, {choice.batch_id for choice, _ in found})
    return [
        Hint(job_id=choice.id, custom_id=custom_id, batch=names[choice.batch_id])
        for choice, custom_id in sorted(found, key=lambda one: -one[0].priority)
    ]


def _batch_names(connection: sa.Connection, ids: set[int]) -> dict[int, str]:
    named = sa.select(_b.id, _b.name).where(bulk.among(connection, _b.id, sorted(ids)))
    return {row.id: row.name for row in connection.execute(named)}


def _open_endpoints(connection: sa.Connection) -> list[int]:
    """Give the endpoints with work that are up, or whose time to be tried again has come."""
    due = _e.state.in_(["down", "busy"]) & (_e.retry_at <= now())
    takes = sa.select(_e.id).where((_e.state == "up") | due).order_by(_e.id)
    ready = endpoints_with_claimable(connection)
    return [id_ for id_ in connection.execute(takes).scalars() if id_ in ready]


def _move(
    connection: sa.Connection,
    chosen: Sequence[Choice],
    after: JobState,
    *,
    run_at: sa.ColumnElement[float] | None,
    tally: Tally,
) -> dict[int, str]:
    """Move locked jobs; give the custom_id of each that was moved."""
    if not chosen:
        return {}
    before = chosen[0].state
    ids = [choice.id for choice in chosen]
    rows = connection.execute(
        sa.update(t.job)
        .where(bulk.among(connection, _j.id, ids), t.has_state(before))
        .values(state=after.value, run_at=run_at)
        .returning(_j.id, _j.batch_id, _j.custom_id)
    ).all()
    for row in rows:
        tally.move(row.batch_id, before, after)
    return {row.id: row.custom_id for row in rows}
