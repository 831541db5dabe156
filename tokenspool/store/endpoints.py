"""Endpoints: what is known of each, and whether it takes work."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import now
from tokenspool.model import Endpoint, JobState
from tokenspool.store.groups import endpoints_with_claimable, find_by_index, hidden

_e, _j = t.endpoint.c, t.job.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the probe found out about an endpoint."""

    #: "" not probed, a prefill flag, `replay`, or `none`.
    resumes_by: str = ""
    #: Does the same request give the same text? None: not known.
    deterministic: bool | None = None


def with_work(connection: sa.Connection) -> list[tuple[Endpoint, Known, str]]:
    """Give the endpoints with claimable or waiting jobs, what is known of each, and its state.

    Jobs of a paused batch or an unfinished enqueue are no work: who waited for them would wait
    until somebody else acts, and the endpoint of a refused enqueue disappears.
    """
    find_by_index(connection)
    ready = endpoints_with_claimable(connection)
    waits = sa.exists().where(_j.endpoint_id == _e.id, t.has_state(JobState.WAITING), ~hidden())
    work = sa.or_(_e.id.in_(ready), waits)
    rows = connection.execute(sa.select(t.endpoint).where(work).order_by(_e.id)).all()
    return [
        (
            Endpoint(id=row.id, url=row.url, model=row.model, api_key_env=row.api_key_env),
            Known(resumes_by=row.resumes_by, deterministic=row.deterministic),
            row.state,
        )
        for row in rows
    ]


def remember(connection: sa.Connection, endpoint_id: int, known: Known) -> None:
    """Keep what a probe found."""
    connection.execute(
        sa.update(t.endpoint)
        .where(_e.id == endpoint_id)
        .values(resumes_by=known.resumes_by, deterministic=known.deterministic, probed_at=now())
    )


def set_state(
    connection: sa.Connection,
    endpoint_id: int,
    *,
    state: str,
    reason: str | None = None,
    retry_in_s: float | None = None,
    limit: int | None = None,
) -> bool:
    """Record how an endpoint stands, and tell whether that changed it; a person's pause stays.

    What stands there already is not written again: all workers of a fleet learn the same, and the
    row's lock would make one heartbeat wait for the other.
    """
    differs = sa.or_(
        _e.state != state,
        _e.reason.is_distinct_from(reason),
        _e.in_flight_limit.is_distinct_from(limit),
        _e.retry_at.is_not(None) if retry_in_s is None else sa.true(),
    )
    changed = connection.execute(
        sa.update(t.endpoint)
        .where(_e.id == endpoint_id, _e.state != "paused", differs)
        .values(
            state=state,
            reason=reason,
            retry_at=None if retry_in_s is None else now() + retry_in_s,
            in_flight_limit=limit,
        )
    ).rowcount
    return bool(changed)
