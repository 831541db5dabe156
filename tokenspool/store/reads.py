"""How all stands, for people and programs: counts, never jobs, so that 1,000,000 cost no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import now
from tokenspool.errors import ErrorKind, UsageError
from tokenspool.model import ENDED, JobState
from tokenspool.store.groups import find_by_index
from tokenspool.store.oldest import oldest_pending_s

_j, _c, _b, _n = t.job.c, t.checkpoint.c, t.batch.c, t.job_count.c
#: Up to this many jobs we look whether any token count is an estimate; above it we assume so.
_LOOK_FOR_ESTIMATES = 10_000
_PAUSED = sa.select(_b.name).where(_b.paused).order_by(_b.id)
#: Names given when an unknown one was said.
_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Sums over the count deltas: exact, and as cheap at 1,000,000 jobs as at ten."""

    jobs: Mapping[JobState, int]
    bytes: int
    generated: int
    needed: int
    rebilled: int

    @property
    def total(self) -> int:
        """All jobs."""
        return sum(self.jobs.values())

    @property
    def unfinished(self) -> int:
        """Jobs with which something will still happen by itself."""
        return sum(jobs for state, jobs in self.jobs.items() if state not in ENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLine:
    """A worker whose lease has not run out."""

    id: str
    state: str
    streams: int
    slots: int
    #: Seconds since it last said that it lives.
    heartbeat_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLine:
    """How an endpoint stands."""

    url: str
    model: str
    state: str
    reason: str | None
    #: Requests it may have at once; None: only the slots limit it.
    limit: int | None
    #: Jobs that are running on it now.
    in_flight: int
    #: Seconds since 1970 at which it is tried again; None: not waiting.
    retry_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How all jobs, or those of one batch, stand."""

    counts: Counts
    #: Is any of the token numbers an estimate?
    estimated: bool
    oldest_pending_s: float | None
    tokens_per_s: float | None
    workers: tuple[WorkerLine, ...]
    endpoints: tuple[EndpointLine, ...]
    #: Names of the batches that a person has paused.
    paused: tuple[str, ...] = ()

    @property
    def eta_s(self) -> float | None:
        """Seconds until all is worked off at today's speed; None when that cannot be said."""
        jobs, left = self.counts.jobs, self.counts.unfinished
        if left == 0:
            return 0.0
        running = jobs[JobState.RUNNING]
        # A running job is half done on average; failed ones left as much as they left.
        written = self.counts.total - left + running / 2
        if not self.tokens_per_s or jobs[JobState.DONE] == 0 or self.counts.needed == 0:
            return None
        each = self.counts.needed / written
        return each * (left - jobs[JobState.COMPLETE] - running / 2) / self.tokens_per_s


def batch_id(connection: sa.Connection, name: str) -> int:
    """Give the id of a batch; raises `UsageError` naming those there are."""
    found = connection.execute(sa.select(_b.id).where(_b.name == name)).scalar()
    if found is not None:
        return int(found)
    newest = sa.select(_b.name).order_by(_b.id.desc()).limit(_NAMED)
    known = ", ".join(repr(other) for other in connection.execute(newest).scalars())
    msg = f"no batch is called {name!r}; " + (
        f"there are: {known}" if known else "there is none yet"
    )
    raise UsageError(msg)


def counts(connection: sa.Connection, *, batch: int | None = None) -> Counts:
    """Give the counts of all jobs, or of a batch."""
    names = ("jobs", "bytes", "generated", "needed", "rebilled")
    statement = sa.select(_n.state, *(sa.func.sum(_n[name]).label(name) for name in names))
    if batch is not None:
        statement = statement.where(_n.batch_id == batch)
    jobs = dict.fromkeys(JobState, 0)
    sums = dict.fromkeys(names[1:], 0)
    for row in connection.execute(statement.group_by(_n.state)).mappings():
        if row["state"]:
            jobs[JobState(row["state"])] = int(row["jobs"])
        for name in sums:
            sums[name] += int(row[name])
    return Counts(jobs=jobs, **sums)


def status(connection: sa.Connection, *, batch: int | None = None) -> Status:
    """Give how all jobs, or those of a batch, stand: a few rows, however many jobs there are."""
    find_by_index(connection)
    found = counts(connection, batch=batch)
    speed, workers = _live_workers(connection)
    only = batch is None or connection.execute(sa.select(sa.func.count(_b.id))).scalar() == 1
    return Status(
        counts=found,
        estimated=_estimated(connection, found, batch=batch),
        oldest_pending_s=oldest_pending_s(connection, batch=batch),
        # Workers do not tell batches apart: with several, a batch's own speed is not known.
        tokens_per_s=speed if only else None,
        workers=workers,
        endpoints=_endpoints(connection),
        paused=tuple(connection.execute(_PAUSED).scalars()),
    )


def _live_workers(connection: sa.Connection) -> tuple[float | None, tuple[WorkerLine, ...]]:
    w = t.worker.c
    rows = connection.execute(
        sa.select(t.worker, (now() - w.heartbeat_at).label("age"))
        .where(w.state != "gone", w.lease_until > now())
        .order_by(w.started_at)
    ).all()
    lines = tuple(
        WorkerLine(
            id=row.id,
            state=row.state,
            streams=row.streams,
            slots=row.slots,
            heartbeat_s=max(0.0, row.age),
        )
        for row in rows
    )
    return (sum(row.tokens_per_s for row in rows) if rows else None), lines


def _endpoints(connection: sa.Connection) -> tuple[EndpointLine, ...]:
    running: dict[int, int] = dict(
        connection.execute(
            sa.select(_j.endpoint_id, sa.func.count())
            .where(_j.owner.is_not(None), _j.state == JobState.RUNNING.value)
            .group_by(_j.endpoint_id)
        ).all()
    )
    rows = connection.execute(sa.select(t.endpoint).order_by(t.endpoint.c.id)).all()
    return tuple(
        EndpointLine(
            url=row.url,
            model=row.model,
            state=row.state,
            reason=row.reason,
            limit=row.in_flight_limit,
            in_flight=running.get(row.id, 0),
            retry_at=row.retry_at,
        )
        for row in rows
    )


def _estimated(connection: sa.Connection, found: Counts, *, batch: int | None) -> bool:
    if found.total > _LOOK_FOR_ESTIMATES:
        return found.generated > 0
    some = sa.select(sa.literal(1)).where(_c.estimated)
    if batch is not None:
        some = some.join(t.job, _j.id == _c.job_id).where(_j.batch_id == batch)
    return connection.execute(some.limit(1)).first() is not None


def failures(connection: sa.Connection, *, batch: int | None = None) -> dict[ErrorKind, int]:
    """Count failed jobs by the kind of their error; reads an index of failed jobs only."""
    statement = (
        sa.select(_j.error_kind, sa.func.count())
        .where(_j.state == JobState.FAILED.value)
        .group_by(_j.error_kind)
    )
    if batch is not None:
        statement = statement.where(_j.batch_id == batch)
    return {ErrorKind(kind): jobs for kind, jobs in connection.execute(statement) if kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Joints:
    """What a reader of the texts should know: where answers were joined, or ended by a budget."""

    verified: int
    unverified: int
    #: Done jobs whose own budget was spent before the model came to an end.
    at_budget: int
    #: Done jobs with an empty text: refusals, tool calls.
    empty: int


def joints(connection: sa.Connection) -> Joints:
    """Count seams of the current editions, and jobs that ended with their budget.

    Reads every seam and every job: for the end of a run, not for a status.
    """
    s = t.seam.c
    current = (
        sa.select(s.verified, sa.func.count())
        .join(t.checkpoint, sa.and_(_c.job_id == s.job_id, _c.edition == s.edition))
        .group_by(s.verified)
    )
    seams: dict[bool, int] = {bool(row[0]): row[1] for row in connection.execute(current)}
    done = sa.select(sa.func.count()).where(_j.state == JobState.DONE.value)
    return Joints(
        verified=seams.get(True, 0),
        unverified=seams.get(False, 0),
        at_budget=connection.execute(done.where(_j.finish == "length")).scalar_one(),
        empty=connection.execute(done.where(_j.bytes == 0)).scalar_one(),
    )
