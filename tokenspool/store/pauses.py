"""A person's pause of a batch or of endpoints: nothing new is claimed there; what runs goes on.

A pause is a mark on the batch or the endpoint, never on a job. Whoever claims looks at it in the
same statement, so it holds from its commit on, for every worker. A job that runs keeps its claim to
the end of its answer; if it is interrupted before, it goes back and waits with the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import Database, now, retrying
from tokenspool.errors import UsageError
from tokenspool.model import JobState
from tokenspool.store.intake.options import checked_url

_b, _e, _j = t.batch.c, t.endpoint.c, t.job.c
PAUSED = "paused"
#: Names given when an unknown one was said.
_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is paused or unpaused: a batch, or endpoints."""

    batch_id: int | None = None
    endpoint_ids: tuple[int, ...] = ()

    @property
    def scope(self) -> str:
        """The choice as the audit keeps it."""
        if self.batch_id is not None:
            return f"batch={self.batch_id}"
        return " ".join(f"endpoint={id_}" for id_ in self.endpoint_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Pauses that keep unfinished jobs from being claimed, and how many jobs that are."""

    jobs: int
    batches: tuple[str, ...]
    #: Base URL and model of each.
    endpoints: tuple[tuple[str, str], ...]


def find_endpoints(connection: sa.Connection, name: str) -> tuple[int, ...]:
    """Give the endpoints that `name` means: a base URL, or `URL MODEL` as `status` shows them.

    Raises `UsageError`, naming those there are, when it means none.
    """
    url, _, model = name.strip().partition(" ")
    # A URL that is refused here may hold a password: it is not repeated.
    asked = sa.select(_e.id).where(_e.url == checked_url(url)).order_by(_e.id)
    if model:
        asked = asked.where(_e.model == model.strip())
    found = tuple(connection.execute(asked).scalars())
    if found:
        return found
    newest = sa.select(_e.url, _e.model).order_by(_e.id.desc()).limit(_NAMED)
    known = ", ".join(repr(f"{row.url} {row.model}") for row in connection.execute(newest))
    msg = f"no endpoint is called {name!r}; " + (
        f"there are: {known}" if known else "there is none yet"
    )
    raise UsageError(msg)


def pause(database: Database, target: Target, *, who: str) -> int:
    """Let nothing new begin there; give how many were not paused before.

    It is one transaction, with one audit row when anything changed. Jobs that run go on.
    """
    return int(retrying(partial(_set, database, target, who=who, paused=True)))


def unpause(database: Database, target: Target, *, who: str) -> int:
    """Let it go on; give how many were paused."""
    return int(retrying(partial(_set, database, target, who=who, paused=False)))


def _set(database: Database, target: Target, *, who: str, paused: bool) -> int:
    with database.write() as connection:
        if target.batch_id is not None:
            changed = connection.execute(
                sa.update(t.batch)
                .where(_b.id == target.batch_id, _b.paused.is_(not paused))
                .values(paused=paused)
            ).rowcount
        else:
            changed = _set_endpoints(connection, target, who=who, paused=paused)
        if changed:
            action = "pause" if paused else "unpause"
            # No job is moved by it.
            row = {"at": now(), "who": who, "action": action, "scope": target.scope, "jobs": 0}
            connection.execute(t.audit.insert().values(row))
    return int(changed)


def _set_endpoints(connection: sa.Connection, target: Target, *, who: str, paused: bool) -> int:
    chosen = sa.select(_e.id).where(
        _e.id.in_(target.endpoint_ids),
        _e.state != PAUSED if paused else _e.state == PAUSED,
    )
    # In the order of their ids, as everywhere: a heartbeat writes several of them, too.
    ids = list(connection.execute(chosen.order_by(_e.id).with_for_update()).scalars())
    # What was known of it before is found out again: nobody has tried it since.
    values = {"state": PAUSED, "reason": f"by {who}"} if paused else {"state": "up", "reason": None}
    change = sa.update(t.endpoint).where(_e.id.in_(ids))
    connection.execute(change.values({**values, "retry_at": None}))
    return len(ids)


def running_on(connection: sa.Connection, target: Target) -> int:
    """Count the jobs that run on the endpoints."""
    running = sa.select(sa.func.count()).where(
        _j.owner.is_not(None),
        _j.state == JobState.RUNNING.value,
        _j.endpoint_id.in_(target.endpoint_ids),
    )
    return int(connection.execute(running).scalar_one())


def held(connection: sa.Connection) -> Held:
    """Give which pauses hold up claimable or waiting jobs just now.

    Counts every job that waits: for the end of a run, not for a status.
    """
    waits = _j.state.in_([state.value for state in (*t.CLAIMABLE, JobState.WAITING)])
    unrevealed = sa.select(t.intake.c.id).where(~t.intake.c.revealed)
    rows = connection.execute(
        sa.select(_j.batch_id, _j.endpoint_id, _b.name, _b.paused, _e.url, _e.model)
        .add_columns((_e.state == PAUSED).label("shut"), sa.func.count().label("jobs"))
        .select_from(t.job)
        .join(t.batch, _b.id == _j.batch_id)
        .join(t.endpoint, _e.id == _j.endpoint_id)
        .where(waits, _j.intake_id.not_in(unrevealed), _b.paused | (_e.state == PAUSED))
        .group_by(_j.batch_id, _j.endpoint_id, _b.name, _b.paused, _e.url, _e.model, _e.state)
        .order_by(_j.batch_id, _j.endpoint_id)
    ).all()
    return Held(
        jobs=sum(row.jobs for row in rows),
        batches=tuple(dict.fromkeys(row.name for row in rows if row.paused)),
        endpoints=tuple(dict.fromkeys((row.url, row.model) for row in rows if row.shut)),
    )
