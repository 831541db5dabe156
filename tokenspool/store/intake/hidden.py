"""Jobs that are in the database and that nobody sees yet, until they are revealed or removed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import now
from tokenspool.errors import Unavailable
from tokenspool.inputs.spec import BadLine, JobSpec
from tokenspool.model import JobState
from tokenspool.store.counts import Tally
from tokenspool.store.intake import rows
from tokenspool.store.intake.folders import clashes
from tokenspool.store.intake.options import JobOptions
from tokenspool.store.intake.place import Asked, Place, make_endpoint
from tokenspool.store.intake.turns import MAX_ROWS, Turns

_i, _j = t.intake.c, t.job.c
#: Jobs that get no intake of their own in a batch that has one: a step of one transaction.
_FEW = MAX_ROWS
_SWEPT = "another enqueue took this one for abandoned; nothing was taken, try again"


class Hidden:
    """The new jobs of one enqueue. The intake is made with the first of them."""

    def __init__(self, turns: Turns, place: Place) -> None:
        """Nothing is written yet."""
        self.turns = turns
        self.place = place
        self.intake_id: int | None = None
        self._created_at = 0.0
        self._jobs = 0
        self._endpoints_before = 0

    def add(self, specs: Sequence[JobSpec], options: JobOptions) -> None:
        """Insert new jobs, durable and unseen."""
        if not specs:
            return
        if self.intake_id is None:
            self._begin()
        asked = {(options.base_url, spec.model, options.api_key_env) for spec in specs}
        known = {one: found for one in asked if (found := self.place.recall(one)) is not None}
        tries = itertools.count()

        def operation(connection: sa.Connection) -> dict[Asked, int]:
            self._check_hidden(connection)
            made = {one: make_endpoint(connection, one) for one in asked - known.keys()}
            endpoints = {model: found for (_, model, _), found in (known | made).items()}
            new, again = _rows(specs, endpoints), next(tries) > 0
            rows.insert(connection, new, self._shared(options), again=again)
            return made

        for one, endpoint_id in self.turns.write(operation, rows=len(specs)).items():
            self.place.remember(one, endpoint_id)
        self._jobs += len(specs)

    def _check_hidden(self, connection: sa.Connection) -> None:
        """Hold the intake until the end of the transaction: rows without one would be seen.

        It is gone only if another enqueue took this one for dead: on PostgreSQL the lock is lost
        with its session.
        """
        mine = sa.select(_i.revealed).where(_i.id == self.intake_id)
        if connection.execute(mine.with_for_update(read=True)).scalar() is None:
            raise Unavailable(_SWEPT)

    def _begin(self) -> None:
        def operation(connection: sa.Connection) -> tuple[int, int, int, float]:
            newest = connection.execute(sa.select(sa.func.max(t.endpoint.c.id))).scalar()
            self._endpoints_before = newest or 0
            batch_id, output_id = self.place.make(connection)
            intake = t.intake.insert().values(batch_id=batch_id, created_at=now(), revealed=False)
            made = connection.execute(intake.returning(_i.id, _i.created_at)).one()
            return batch_id, output_id, made.id, made.created_at

        self.place.batch_id, self.place.output_id, self.intake_id, self._created_at = (
            self.turns.write(operation)
        )

    def _shared(self, options: JobOptions) -> rows.Shared:
        return {
            "batch_id": self.place.batch_id,
            "intake_id": self.intake_id,
            "output_id": self.place.output_id,
            "resume": options.resume.value,
            "max_continuations": options.max_continuations,
            "max_attempts": options.max_attempts,
            "on_seam": options.on_seam,
            "created_at": self._created_at,
        }

    def drop_clashes(self) -> Iterator[BadLine]:
        """Remove the jobs whose name is another's folder, or the reverse; yield their lines."""
        output_id, intake_id = self.place.output_id, self.intake_id
        if output_id is None or intake_id is None:
            return
        for found in clashes(self.turns.database, output_id=output_id, intake_id=intake_id):
            self._drop([clash.job_id for clash in found])
            yield from (clash.line for clash in found)

    def _drop(self, ids: Sequence[int]) -> None:
        self.turns.write(lambda connection: connection.execute(_remove(ids)))
        self._jobs -= len(ids)

    def reveal(self) -> None:
        """Make all of them visible, and counted, in one transaction."""
        if self.intake_id is not None:
            self.turns.write(self._reveal)

    def _reveal(self, connection: sa.Connection) -> None:
        mine = sa.select(_i.revealed).where(_i.id == self.intake_id)
        revealed = connection.execute(mine.with_for_update()).scalar()
        if revealed:
            # The answer of an earlier commit was lost.
            return
        if revealed is None or not self._all_there(connection):
            raise Unavailable(_SWEPT)
        connection.execute(sa.update(t.intake).where(_i.id == self.intake_id).values(revealed=True))
        if self._jobs <= _FEW:
            self._join_the_last(connection)
        tally = Tally()
        tally.move(self.place.batch_id or 0, None, JobState.PENDING, self._jobs)
        tally.write(connection)

    def _all_there(self, connection: sa.Connection) -> bool:
        """Tell whether no sweep has begun; only a lost session on PostgreSQL lets one begin."""
        if connection.dialect.name == "sqlite":
            return True
        mine = sa.select(sa.func.count()).select_from(t.job).where(self._mine(connection))
        return connection.execute(mine).scalar() == self._jobs

    def _mine(self, connection: sa.Connection) -> sa.ColumnElement[bool]:
        """Give the condition that a job is one of these, so that an index finds them."""
        if connection.dialect.name == "postgresql":
            # Of a table that has just been filled the planner knows nothing.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        return (
            _j.endpoint_id.in_(sa.select(t.endpoint.c.id))
            & (_j.batch_id == self.place.batch_id)
            & (_j.intake_id == self.intake_id)
            & t.claimable()
        )

    def _join_the_last(self, connection: sa.Connection) -> None:
        """Put the jobs to those that came into the batch before: claims look at each intake.

        A service that enqueues job by job would leave them one intake each. Only the last one may
        take them in, so that within a batch a later intake has later jobs.
        """
        before = sa.select(sa.func.max(_i.id)).where(
            _i.batch_id == self.place.batch_id, _i.revealed, _i.id < self.intake_id
        )
        last = connection.execute(before).scalar()
        if last is None:
            return
        join = sa.update(t.job).where(self._mine(connection)).values(intake_id=last)
        connection.execute(join)
        # Ours stays until the next one is through, for a commit whose answer is lost.
        earlier = (_i.batch_id == t.JOINED) & (_i.id < self.intake_id)
        connection.execute(t.intake.delete().where(earlier))
        ours = sa.update(t.intake).where(_i.id == self.intake_id)
        connection.execute(ours.values(batch_id=t.JOINED))

    def forget(self) -> None:
        """Remove them, and what was made for them."""
        if self.intake_id is not None:
            sweep(self.turns)
            # Only an enqueue makes endpoints, and one is at work at a time: these were for us.
            made = t.endpoint.delete().where(t.endpoint.c.id > self._endpoints_before)
            self.turns.write(lambda connection: connection.execute(made))


def _rows(specs: Sequence[JobSpec], endpoints: dict[str, int]) -> list[rows.New]:
    return [
        (
            endpoints[spec.model],
            spec.custom_id,
            spec.content,
            spec.name,
            spec.name_key,
            spec.api,
            spec.body,
            spec.extra,
            spec.priority,
            spec.max_output_tokens,
        )
        for spec in specs
    ]


def _remove(ids: Sequence[int]) -> sa.Delete:
    return t.job.delete().where(_j.id.in_(ids))


def sweep(turns: Turns) -> None:
    """Remove what abandoned enqueues left hidden; the caller holds the enqueue lock."""
    step = _sweep_newest if turns.database.kind == "sqlite" else _sweep_at_once
    while not turns.write(step):
        pass


def _sweep_newest(connection: sa.Connection) -> bool:
    """Remove one step's worth of hidden jobs; tell whether that was all.

    Only one enqueue is at work at a time and each begins with a sweep, so hidden jobs are the
    newest: no index is needed to find them, and no look at all the others.
    """
    hidden = _hidden(connection)
    if not hidden:
        return True
    newest = sa.select(_j.id, _j.intake_id).order_by(_j.id.desc()).limit(MAX_ROWS)
    found = connection.execute(newest).all()
    doomed = [row.id for row in found if row.intake_id in hidden]
    connection.execute(_remove(doomed))
    if len(doomed) == MAX_ROWS:
        return False
    _close(connection, hidden)
    return True


def _sweep_at_once(connection: sa.Connection) -> bool:
    """Remove all hidden jobs: on PostgreSQL rows that nobody sees are in nobody's way."""
    hidden = _hidden(connection)
    if hidden:
        connection.execute(t.job.delete().where(_j.intake_id.in_(hidden)))
        _close(connection, hidden)
    return True


def _hidden(connection: sa.Connection) -> dict[int, int]:
    unrevealed = sa.select(_i.id, _i.batch_id).where(~_i.revealed)
    return {row.id: row.batch_id for row in connection.execute(unrevealed.with_for_update())}


def _close(connection: sa.Connection, hidden: dict[int, int]) -> None:
    """Remove the intakes, and batches and outputs that never had a job."""
    b, o = t.batch.c, t.output.c
    connection.execute(t.intake.delete().where(_i.id.in_(hidden)))
    of_batch = sa.select(_j.id).where(_j.batch_id == b.id).exists()
    connection.execute(t.batch.delete().where(b.id.in_(hidden.values()), ~of_batch))
    of_output = sa.select(_j.id).where(_j.output_id == o.id).exists()
    connection.execute(t.output.delete().where(~of_output))
