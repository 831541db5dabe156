"""Pruning: the journal lets go of old text. Rows stay, so that a custom_id is never paid for twice.

Of a `done` job the text is in its output file; its length and digest stay, so `verify` still works
and only `--repair` no longer can. Of a `failed` or `cancelled` job the text is gone for good: a
`resume` then begins a new edition from zero.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import Database, now, retrying
from tokenspool.model import ENDED, JobState
from tokenspool.store.actions import begin_edition, raise_epochs
from tokenspool.store.counts import Tally

_j, _c, _s = t.job.c, t.checkpoint.c, t.segment.c
#: Text deleted in one transaction: freeing pages takes about 10 ms a MiB on a slow disk.
_STEP_BYTES = 8 * 1024 * 1024
_STEP_ROWS = 1000
_PAGE_ROWS = 1000

T = TypeVar("T")
Pause = Callable[[float], None]
Progress = Callable[["Pruned"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a prune did so far."""

    jobs: int = 0
    #: Bytes freed inside the database, for it to use again.
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A failed or cancelled job whose text is pruned: its part files are of no more use."""

    job_id: int
    root: str
    name: str
    #: Parts of claims up to this one are old; a later one belongs to whoever resumed the job.
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Old:
    """A job that ended long ago and still has text."""

    id: int
    batch_id: int
    state: JobState
    edition: int
    root: str
    name: str


def prune(
    database: Database,
    *,
    older_than_s: float,
    batch_id: int | None = None,
    leftover: Callable[[Leftover], None],
    pause: Pause = time.sleep,
    progress: Progress | None = None,
) -> Pruned:
    """Delete the text of jobs that ended more than `older_than_s` ago; never an output file.

    First a job's checkpoint moves to a new edition with no text, then the old editions' segments
    go, a bounded step at a time: after a crash in the middle the same command does the rest.
    `leftover` is told of each failed or cancelled job, once its text no longer counts.
    """
    jobs = freed = 0
    for old in _old_jobs(database, older_than_s, batch_id):
        let_go = functools.partial(_let_go, job_id=old.id, state=old.state)
        epoch = _in_one(database, let_go)
        if epoch is None:
            continue
        if old.state is not JobState.DONE:
            leftover(Leftover(job_id=old.id, root=old.root, name=old.name, epoch=epoch))
        jobs += 1
        began = time.monotonic()
        delete_step = functools.partial(_delete_step, job_id=old.id)
        while step := _in_one(database, delete_step):
            freed += step
            # As long for the others as it took us.
            pause(time.monotonic() - began)
            began = time.monotonic()
        if progress is not None:
            progress(Pruned(jobs=jobs, bytes=freed))
    return Pruned(jobs=jobs, bytes=freed)


def forget_some(connection: sa.Connection, job_ids: Sequence[int]) -> list[int]:
    """Delete text of done jobs, as much as one short transaction may; give those that have more.

    Jobs with a refusal or tool calls are left as they are: no file holds those. After a death in
    the middle `prune` does the rest.
    """
    left, size = [], 0
    for job_id in job_ids:
        if size >= _STEP_BYTES:
            left.append(job_id)
            continue
        if _is_in_file(connection, job_id) and _let_go(connection, job_id, JobState.DONE):
            step = _delete_step(connection, job_id)
            size += step
            if step:
                left.append(job_id)
    return left


def _old_jobs(database: Database, older_than_s: float, batch_id: int | None) -> Iterator[_Old]:
    """Yield the ended jobs that still have segments, of whatever edition."""
    has_text = sa.select(sa.literal(1)).where(_s.job_id == _j.id).exists()
    old = (
        sa.select(_j.id, _j.batch_id, _j.state, _c.edition, t.output.c.root, _j.name)
        .join(t.checkpoint, _c.job_id == _j.id)
        .join(t.output, t.output.c.id == _j.output_id)
        .where(_j.state.in_(sorted(state.value for state in ENDED)))
        .where(_j.ended_at < now() - older_than_s, has_text)
        .order_by(_j.id)
        .limit(_PAGE_ROWS)
    )
    if batch_id is not None:
        old = old.where(_j.batch_id == batch_id)
    after = 0
    while True:
        with database.read() as connection:
            rows = connection.execute(old.where(_j.id > after)).all()
        if not rows:
            return
        for row in rows:
            yield _Old(
                id=row.id,
                batch_id=row.batch_id,
                state=JobState(row.state),
                edition=row.edition,
                root=row.root,
                name=row.name,
            )
        after = rows[-1].id


def _in_one(database: Database, operation: Callable[[sa.Connection], T]) -> T:
    """Run an operation in a transaction of its own, again while the database says "not now"."""

    def run() -> T:
        with database.write() as connection:
            return operation(connection)

    result: T = retrying(run)
    return result


def _let_go(connection: sa.Connection, job_id: int, state: JobState) -> int | None:
    """Begin an edition without text; give the epoch up to which parts are old, None if resumed."""
    held = sa.select(_j.state, _j.epoch).where(_j.id == job_id).with_for_update()
    row = connection.execute(held).one()
    if row.state != state.value:
        return None
    if _text(connection, job_id):
        tally = None if state is JobState.DONE else Tally()
        begin_edition(connection, [job_id], tally)
        connection.execute(sa.update(t.job).where(_j.id == job_id).values(epoch=_j.epoch + 1))
        raise_epochs(connection, [job_id])
        if tally is not None:
            tally.write(connection)
    return int(row.epoch)


def _is_in_file(connection: sa.Connection, job_id: int) -> bool:
    """Tell whether all of an answer but its thoughts stands in its file."""
    beside = sa.select(_c.refusal + _c.tool).where(_c.job_id == job_id)
    return not connection.execute(beside).scalar()


def _text(connection: sa.Connection, job_id: int) -> bool:
    """Tell whether the checkpoint still counts any text."""
    total = _c.text + _c.reasoning + _c.refusal + _c.tool
    return bool(connection.execute(sa.select(total).where(_c.job_id == job_id)).scalar())


def _delete_step(connection: sa.Connection, job_id: int) -> int:
    """Delete some segments of editions before the checkpoint's; give how many bytes."""
    current = sa.select(_c.edition).where(_c.job_id == job_id).scalar_subquery()
    rows = connection.execute(
        sa.select(_s.edition, _s.kind, _s.start, sa.func.length(_s.data))
        .where(_s.job_id == job_id, _s.edition < current)
        .order_by(_s.edition, _s.kind, _s.start)
        .limit(_STEP_ROWS)
    ).all()
    chosen, size = _within(_STEP_BYTES, [(row[:3], row[3]) for row in rows])
    for edition, kind, start in chosen:
        connection.execute(
            t.segment.delete().where(
                _s.job_id == job_id,
                _s.edition == edition,
                _s.kind == kind,
                _s.start == start,
            )
        )
    return size


def _within(
    limit: int, sized: Sequence[tuple[tuple[int, str, int], int]]
) -> tuple[list[tuple[int, str, int]], int]:
    """Give the first keys whose sizes together stay within `limit`, at least one, and their sum."""
    chosen: list[tuple[int, str, int]] = []
    total = 0
    for key, size in sized:
        if chosen and total + size > limit:
            break
        chosen.append(key)
        total += size
    return chosen, total
