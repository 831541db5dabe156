"""What a person does to many jobs: resume and cancel, in steps short enough for a beat to pass.

Each step is one transaction of at most 1,000 rows and about 100 ms, and a pause of its own length
follows: one transaction over 600,000 rows starved the beat of a running worker for 5 s. A database
that is busy is waited for. After a crash in the middle, the same command does what is left.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import Database, now, retrying
from tokenspool.errors import ErrorKind, UsageError
from tokenspool.model import MOVES, JobState
from tokenspool.store.counts import Tally

_j, _c = t.job.c, t.checkpoint.c
#: Rows of one step at most, and how long one should take.
STEP_ROWS, STEP_S = 1000, 0.1
_FIRST_ROWS = 100
#: Ids looked up at a time: 400 KB, and few searches even over 1,000,000 jobs.
_PAGE_ROWS = 50_000
_RESUMABLE = frozenset(s for s, to in MOVES.items() if JobState.PENDING in to) & {
    JobState.FAILED,
    JobState.CANCELLED,
}
_CANCELLABLE = frozenset(s for s, to in MOVES.items() if JobState.CANCELLED in to)

Pause = Callable[[float], None]
Progress = Callable[[int], None]
Move = Callable[[sa.Connection, Mapping[int, JobState], Tally], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which jobs are meant; what is given must all hold. Nothing given means nothing at all."""

    job_id: int | None = None
    batch_id: int | None = None
    error: ErrorKind | None = None
    #: Failed jobs only, not those that a person cancelled.
    failed_only: bool = False

    def __post_init__(self) -> None:
        """Refuse the empty choice: it must never come to mean every job."""
        if (
            self.job_id is None
            and self.batch_id is None
            and not self.error
            and not self.failed_only
        ):
            msg = "say which jobs: a batch, a job, an error kind or all that failed"
            raise UsageError(msg)

    @property
    def scope(self) -> str:
        """The choice as the audit keeps it."""
        said = {"job": self.job_id, "batch": self.batch_id, "error": self.error}
        words = [f"{name}={value}" for name, value in said.items() if value is not None]
        return " ".join(words + ["failed"] * self.failed_only)


def resume(
    database: Database,
    chosen: Chosen,
    *,
    who: str,
    restart: bool = False,
    pause: Pause = time.sleep,
    progress: Progress | None = None,
) -> int:
    """Move the chosen failed and cancelled jobs to `pending`; give how many.

    One whose answer is proven whole goes to `complete` instead: asked to go on, a model would add
    to a finished text. Attempts, stalls, crashes and continuations begin anew; text and checkpoint
    are kept. With `restart` each, whole or not, begins a new edition from zero; the old one is kept
    until it is pruned.
    """
    only_failed = chosen.failed_only or chosen.error not in {None, ErrorKind.CANCELLED}

    def move(connection: sa.Connection, found: Mapping[int, JobState], tally: Tally) -> int:
        whole = {} if restart else _whole(connection, found)
        cut = {id_: state for id_, state in found.items() if id_ not in whole}
        ids = _move(connection, cut, JobState.PENDING, tally, _RENEWED)
        ids += _move(connection, whole, JobState.COMPLETE, tally, _RENEWED)
        if restart:
            connection.execute(_of(t.job, ids).values(epoch=_j.epoch + 1, cause="", bytes=None))
            raise_epochs(connection, ids)
            begin_edition(connection, ids, tally)
        else:
            connection.execute(_of(t.checkpoint, ids).values(stalls=0, continuations=0))
        return len(ids)

    return _Steps(
        database=database,
        chosen=chosen,
        states=frozenset({JobState.FAILED}) if only_failed else _RESUMABLE,
        action="restart" if restart else "resume",
        who=who,
        pause=pause,
    ).run(move, progress)


def cancel(
    database: Database,
    chosen: Chosen,
    *,
    who: str,
    pause: Pause = time.sleep,
    progress: Progress | None = None,
) -> int:
    """Move the chosen unfinished jobs to `cancelled`; give how many.

    The epoch rises in the job and in its checkpoint: whoever was working on one finds at its next
    beat that it has lost the job, stops that stream and writes nothing more.
    """
    values = {
        "owner": None,
        "epoch": _j.epoch + 1,
        "run_at": None,
        "cause": sa.case((_j.cause == "", ErrorKind.CANCELLED.value), else_=_j.cause),
        "error_kind": ErrorKind.CANCELLED.value,
        "error_message": f"cancelled by {who}",
        "ended_at": now(),
    }

    def move(connection: sa.Connection, found: Mapping[int, JobState], tally: Tally) -> int:
        ids = _move(connection, found, JobState.CANCELLED, tally, values)
        raise_epochs(connection, ids)
        return len(ids)

    return _Steps(
        database=database,
        chosen=chosen,
        states=_CANCELLABLE,
        action="cancel",
        who=who,
        pause=pause,
    ).run(move, progress)


_RENEWED: dict[str, Any] = {
    "owner": None,
    "run_at": None,
    "ended_at": None,
    "attempts": 0,
    "crashes": 0,
    "error_kind": None,
    "error_message": None,
}


def _of(table: sa.Table, ids: Sequence[int]) -> sa.Update:
    column = table.c.id if table is t.job else table.c.job_id
    return sa.update(table).where(column.in_(ids))


def _whole(connection: sa.Connection, found: Mapping[int, JobState]) -> dict[int, JobState]:
    """Give those whose answer had proven its end before publishing was given up."""
    proven = sa.select(_j.id).where(_j.id.in_(list(found)), _j.finish.is_not(None))
    return {id_: found[id_] for id_ in connection.execute(proven).scalars()}


def _move(
    connection: sa.Connection,
    found: Mapping[int, JobState],
    to: JobState,
    tally: Tally,
    values: dict[str, Any],
) -> list[int]:
    """Move jobs, each from the state it was found in; give the ids of those that still were."""
    moved: list[int] = []
    for before in sorted(set(found.values())):
        ids = [id_ for id_, state in found.items() if state is before]
        change = _of(t.job, ids).where(_j.state == before.value)
        change = change.values(values | {"state": to.value})
        for row in connection.execute(change.returning(_j.id, _j.batch_id)):
            tally.move(row.batch_id, before, to)
            moved.append(row.id)
    return sorted(moved)


def raise_epochs(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Bring the checkpoints, where there are any, to their jobs' epoch."""
    job_epoch = sa.select(_j.epoch).where(_j.id == _c.job_id).scalar_subquery()
    connection.execute(_of(t.checkpoint, ids).values(epoch=job_epoch))


def begin_edition(
    connection: sa.Connection, ids: Sequence[int], tally: Tally | None = None
) -> None:
    """Set the checkpoints of these jobs to the beginning of a new edition.

    With a tally the old text no longer counts as kept; what it cost to generate still does.
    """
    if tally is not None:
        kept = sa.select(_j.batch_id, _c.text, _c.needed).join(t.job, _j.id == _c.job_id)
        for row in connection.execute(kept.where(_c.job_id.in_(ids))):
            tally.grow(row.batch_id, data=-row.text, needed=-row.needed)
        # What had proven its end is not the text any more.
        connection.execute(_of(t.job, ids).values(finish=None))
    zero = dict.fromkeys(("text", "reasoning", "refusal", "tool", "stalls", "continuations"), 0)
    # A person's own wish: text that is written again is progress, not a stall (law 9).
    values = zero | {"edition": _c.edition + 1, "furthest": 0, "cursor": ""}
    if tally is not None:
        values["needed"] = 0
    connection.execute(_of(t.checkpoint, ids).values(values))


@dataclass(slots=True, kw_only=True)
class _Steps:
    """Walks over the chosen jobs by id, a step at a time, with one audit row for all."""

    database: Database
    chosen: Chosen
    states: frozenset[JobState]
    action: str
    who: str
    pause: Pause
    audit_id: int | None = None

    def run(self, move: Move, progress: Progress | None) -> int:
        """Do the steps; give how many jobs were moved."""
        moved, size = 0, _FIRST_ROWS
        for page in self._pages():
            at = 0
            while at < len(page):
                began = time.monotonic()
                ids, at = page[at : at + size], at + size
                moved += retrying(functools.partial(self._step, move, ids))
                took = time.monotonic() - began
                size = max(1, min(STEP_ROWS, int(size * min(2.0, STEP_S / max(took, 0.001)))))
                if progress is not None:
                    progress(moved)
                self.pause(took)
        return moved

    def _pages(self) -> Iterator[list[int]]:
        """Yield the ids, read apart from the writing: a search must not hold up a beat."""
        after = 0
        while True:
            with self.database.read() as connection:
                page = self._select().where(_j.id > after).order_by(_j.id).limit(_PAGE_ROWS)
                ids = list(connection.execute(page).scalars())
            if not ids:
                return
            yield ids
            after = ids[-1]

    def _select(self) -> sa.Select[int]:
        if len(self.states) == 1:
            # Said as an equation, so that the index over failed jobs serves it.
            state = _j.state == next(iter(self.states)).value
        else:
            state = _j.state.in_(sorted(state.value for state in self.states))
        jobs = sa.select(_j.id).where(state)
        if self.chosen.job_id is not None:
            jobs = jobs.where(_j.id == self.chosen.job_id)
        if self.chosen.batch_id is not None:
            jobs = jobs.where(_j.batch_id == self.chosen.batch_id)
        if self.chosen.error is not None:
            jobs = jobs.where(_j.error_kind == self.chosen.error.value)
        # What a running enqueue has inserted is not counted yet: moving it would break the counts.
        hidden = sa.select(t.intake.c.id).where(~t.intake.c.revealed)
        return jobs.where(_j.intake_id.not_in(hidden))

    def _step(self, move: Move, ids: list[int]) -> int:
        with self.database.write() as connection:
            # Locked in the order of their ids, as everywhere: two bulk actions must not cross.
            locked = sa.select(_j.id, _j.state).where(_j.id.in_(ids)).order_by(_j.id)
            states = {
                row.id: JobState(row.state) for row in connection.execute(locked.with_for_update())
            }
            found = {id_: state for id_, state in states.items() if state in self.states}
            if not found:
                return 0
            tally = Tally()
            moved = move(connection, found, tally)
            tally.write(connection)
            audit_id = self._account(connection, moved)
        self.audit_id = audit_id
        return moved

    def _account(self, connection: sa.Connection, jobs: int) -> int:
        """Count these jobs in the audit row of this action; it is made with the first step."""
        a = t.audit.c
        if self.audit_id is None:
            row = t.audit.insert().values(
                at=now(), who=self.who, action=self.action, scope=self.chosen.scope, jobs=jobs
            )
            return int(connection.execute(row.returning(a.id)).scalar_one())
        more = sa.update(t.audit).where(a.id == self.audit_id)
        connection.execute(more.values(jobs=a.jobs + jobs))
        return self.audit_id
