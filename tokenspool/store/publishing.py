"""What publishing writes: `complete -> done`, after the output was proven equal to the journal."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import now
from tokenspool.errors import TokenspoolError
from tokenspool.model import Failure, Job, JobState
from tokenspool.store import bulk
from tokenspool.store.counts import Tally

_j = t.job.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A job whose output stands under its final name, and what it was checked by."""

    job: Job
    size: int
    sha256: bytes


def born(connection: sa.Connection, job_id: int) -> str:
    """Give the moment a job was enqueued: with its id it is the same in no other database.

    Raises TokenspoolError when there is no such job.
    """
    at = connection.execute(sa.select(_j.created_at).where(_j.id == job_id)).scalar()
    if at is None:
        msg = f"there is no job {job_id} in the database"
        raise TokenspoolError(msg)
    return f"{at:.6f}"


def mark_done(connection: sa.Connection, published: list[Published]) -> None:
    """Move published jobs to `done`, where the claim still stands.

    Where it does not, another worker publishes the same bytes again: nothing is to be mended.
    """
    if bulk.is_bulk(connection):
        rows = [(one.job.id, one.job.epoch, one.size, one.sha256) for one in published]
        bulk.find_by_index(connection)
        bulk.lock_jobs(connection, (one.job.id for one in published))
        done = {tuple(row) for row in bulk.execute(connection, _DONE, _DONE_COLUMNS, rows)}
    else:
        done = {one.job.owner_key for one in published if _set_done(connection, one)}
    tally = Tally()
    for one in published:
        if one.job.owner_key in done:
            tally.move(one.job.batch_id, JobState.COMPLETE, JobState.DONE)
    tally.write(connection)


_DONE_COLUMNS = {"job": "int8", "at_epoch": "int8", "size": "int8", "proof": "bytea"}
_DONE = (
    f"UPDATE job SET state = '{JobState.DONE}', owner = NULL, run_at = NULL,"  # noqa: S608
    f" ended_at = {bulk.CLOCK}, bytes = n.size, sha256 = n.proof,"
    f" error_kind = NULL, error_message = NULL FROM {bulk.unnest(_DONE_COLUMNS)}"
    f" WHERE id = n.job AND epoch = n.at_epoch AND state = '{JobState.COMPLETE}'"
    " RETURNING id, epoch"
)


def _set_done(connection: sa.Connection, one: Published) -> bool:
    changed = connection.execute(
        sa.update(t.job)
        .where(
            _j.id == one.job.id,
            _j.epoch == one.job.epoch,
            _j.state == JobState.COMPLETE.value,
        )
        .values(
            state=JobState.DONE.value,
            owner=None,
            run_at=None,
            ended_at=now(),
            bytes=one.size,
            sha256=one.sha256,
            error_kind=None,
            error_message=None,
        )
    )
    return changed.rowcount > 0


def let_go(connection: sa.Connection, *, job: Job) -> None:
    """Let another claim publish a complete job, where ours still stands."""
    connection.execute(
        sa.update(t.job)
        .where(_j.id == job.id, _j.epoch == job.epoch, t.has_state(JobState.COMPLETE))
        .values(owner=None)
    )


def mark_failed(connection: sa.Connection, *, job: Job, failure: Failure) -> None:
    """Give up publishing a job, where the claim still stands; its text stays in the journal."""
    changed = connection.execute(
        sa.update(t.job)
        .where(_j.id == job.id, _j.epoch == job.epoch, t.has_state(JobState.COMPLETE))
        .values(
            state=JobState.FAILED.value,
            owner=None,
            ended_at=now(),
            error_kind=failure.kind.value,
            error_message=failure.message,
        )
    ).rowcount
    if changed:
        tally = Tally()
        tally.move(job.batch_id, JobState.COMPLETE, JobState.FAILED)
        tally.write(connection)
