"""Jobs for people and programs: a page of a list, the one that a name means, all about one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.errors import TRAITS, ErrorKind, UsageError
from tokenspool.model import Checkpoint, JobState
from tokenspool.store.claims import checkpoint_from

_j, _c, _b = t.job.c, t.checkpoint.c, t.batch.c
#: Candidates named when a custom_id is not unique.
_CANDIDATES = 10
#: Records shown of one job.
_RECORDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """A job as lists show it."""

    id: int
    custom_id: str
    batch: str
    state: JobState
    #: Bytes of text kept; of the output once it is published.
    bytes: int
    #: Tokens in the text that is kept.
    tokens: int
    attempts: int
    resumes: int
    finish: str | None
    error: ErrorKind | None
    message: str
    root: str
    name: str
    epoch: int

    @property
    def action(self) -> str:
        """What the person should do about its error."""
        return TRAITS[self.error].action if self.error else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which jobs a list shows; what is None does not matter."""

    state: JobState | None = None
    batch_id: int | None = None
    error: ErrorKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail:
    """All that is on record about one job."""

    line: JobLine
    model: str
    url: str
    priority: int
    created_at: float
    ended_at: float | None
    run_at: float | None
    owner: str | None
    #: None: nothing was ever received.
    checkpoint: Checkpoint | None
    sha256: bytes | None
    attempts: tuple[Mapping[str, Any], ...] = ()
    seams: tuple[Mapping[str, Any], ...] = ()


_LINE = (
    sa.select(
        _j.id,
        _j.custom_id,
        _b.name.label("batch"),
        _j.state,
        # Of an unfinished job, `job.bytes` says how long its text was when an attempt ended.
        sa.case(
            (_j.state == JobState.DONE.value, sa.func.coalesce(_j.bytes, 0)),
            else_=sa.func.coalesce(_c.text, 0),
        ).label("bytes"),
        sa.func.coalesce(_c.needed, 0).label("tokens"),
        _j.attempts,
        _j.resumes,
        _j.finish,
        _j.error_kind,
        _j.error_message,
        t.output.c.root,
        _j.name,
        _j.epoch,
    )
    .join(t.batch, _b.id == _j.batch_id)
    .join(t.output, t.output.c.id == _j.output_id)
    .join(t.intake, t.intake.c.id == _j.intake_id)
    .outerjoin(t.checkpoint, _c.job_id == _j.id)
    # What a running enqueue has inserted is not there yet for anybody.
    .where(t.intake.c.revealed)
)


def _line(row: Any) -> JobLine:  # noqa: ANN401 - a row of _LINE
    state = JobState(row.state)
    return JobLine(
        id=row.id,
        custom_id=row.custom_id,
        batch=row.batch,
        state=state,
        bytes=row.bytes,
        tokens=row.tokens,
        attempts=row.attempts,
        resumes=row.resumes,
        finish=row.finish,
        error=ErrorKind(row.error_kind) if row.error_kind else None,
        message=row.error_message or "",
        root=row.root,
        name=row.name,
        epoch=row.epoch,
    )


def jobs(
    connection: sa.Connection, only: Filter, *, after: int = 0, limit: int = 100
) -> list[JobLine]:
    """Give one page of jobs by id, those after the id `after`."""
    statement = _LINE.where(_j.id > after).order_by(_j.id).limit(limit)
    if only.state is not None:
        statement = statement.where(_j.state == only.state.value)
    if only.batch_id is not None:
        statement = statement.where(_j.batch_id == only.batch_id)
    if only.error is not None:
        statement = statement.where(_j.error_kind == only.error.value)
    return [_line(row) for row in connection.execute(statement)]


def find_job(connection: sa.Connection, name: str, *, batch: int | None = None) -> int:
    """Give the id of the job that `name` means: an id (`id:5` beyond doubt) or a unique custom_id.

    Raises `UsageError` when it means none, or several, which it then names.
    """
    found = {row.id: row for row in _candidates(connection, name, batch=batch)}
    if len(found) == 1:
        return int(next(iter(found)))
    if not found:
        msg = f"no job is called {name!r}; `tokenspool jobs` lists them"
        raise UsageError(msg)
    which = ", ".join(
        f"id:{row.id} ({row.custom_id!r} in batch {row.batch!r})" for row in found.values()
    )
    msg = f"{name!r} may mean several jobs; say one of: {which}"
    raise UsageError(msg)


def _candidates(connection: sa.Connection, name: str, *, batch: int | None) -> list[Any]:
    number = _number(name)
    rows: list[Any] = []
    if number is not None:
        rows += connection.execute(_LINE.where(_j.id == number)).all()
    if not name.startswith("id:") or number is None:
        # Batch by batch: the index is on (batch_id, custom_id), and batches are few.
        batches = sa.select(_b.id) if batch is None else sa.select(_b.id).where(_b.id == batch)
        named = _LINE.where(_j.batch_id.in_(batches), _j.custom_id == name)
        rows += connection.execute(named.order_by(_j.id).limit(_CANDIDATES)).all()
    return rows


def in_batch(connection: sa.Connection, batch: int, custom_id: str) -> JobLine | None:
    """Give the job of a batch that has this custom_id; None if there is none."""
    row = connection.execute(_LINE.where(_j.batch_id == batch, _j.custom_id == custom_id)).first()
    return None if row is None else _line(row)


def job_line(connection: sa.Connection, job_id: int) -> JobLine:
    """Give one job as lists show it."""
    return _line(connection.execute(_LINE.where(_j.id == job_id)).one())


def _number(name: str) -> int | None:
    digits = name.removeprefix("id:")
    # Beyond 18 digits it is no id, and a database would refuse the number.
    if digits.isascii() and digits.isdigit() and len(digits) <= 18:  # noqa: PLR2004
        return int(digits)
    return None


def show(connection: sa.Connection, job_id: int) -> JobDetail:
    """Give all that is on record about a job; of attempts and seams the newest 1,000."""
    row = connection.execute(_LINE.where(_j.id == job_id)).one()
    more = connection.execute(
        sa.select(t.job, t.endpoint.c.url, t.endpoint.c.model)
        .join(t.endpoint, t.endpoint.c.id == _j.endpoint_id)
        .where(_j.id == job_id)
    ).one()
    point = (
        connection.execute(sa.select(t.checkpoint).where(_c.job_id == job_id)).mappings().first()
    )
    return JobDetail(
        line=_line(row),
        model=more.model,
        url=more.url,
        priority=more.priority,
        created_at=more.created_at,
        ended_at=more.ended_at,
        run_at=more.run_at,
        owner=more.owner,
        checkpoint=checkpoint_from({**point}) if point else None,
        sha256=more.sha256,
        attempts=_records(connection, t.attempt, job_id),
        seams=_records(connection, t.seam, job_id),
    )


def _records(
    connection: sa.Connection, table: sa.Table, job_id: int
) -> tuple[Mapping[str, Any], ...]:
    newest = sa.select(table).where(table.c.job_id == job_id).order_by(table.c.id.desc())
    rows = connection.execute(newest.limit(_RECORDS)).mappings().all()
    return tuple({k: v for k, v in row.items() if k not in {"id", "job_id"}} for row in rows[::-1])
