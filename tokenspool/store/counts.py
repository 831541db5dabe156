"""Jobs, bytes and tokens per batch and state, kept as deltas in the transaction that moves them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.model import JobState
from tokenspool.store import bulk

#: Fold once it saves this many rows: reading them is then still well under a millisecond.
FOLD_AT = 500
#: One fold touches at most so many, so that a beat never waits long for it.
FOLD_MOST = 10_000


@dataclass(slots=True)
class Tally:
    """Gathers what a transaction changes, to be written as few rows as there are states."""

    _rows: dict[tuple[int, str], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0] * 5)
    )

    def move(
        self, batch_id: int, before: JobState | None, after: JobState | None, jobs: int = 1
    ) -> None:
        """Count `jobs` jobs out of `before` and into `after`; None is outside the database."""
        if before is not None:
            self._rows[batch_id, before][0] -= jobs
        if after is not None:
            self._rows[batch_id, after][0] += jobs

    def grow(
        self,
        batch_id: int,
        *,
        data: int = 0,
        generated: int = 0,
        needed: int = 0,
        rebilled: int = 0,
    ) -> None:
        """Add committed bytes and tokens; they belong to the batch, not to a state."""
        row = self._rows[batch_id, ""]
        row[1] += data
        row[2] += generated
        row[3] += needed
        row[4] += rebilled

    def write(self, connection: sa.Connection) -> None:
        """Append the deltas."""
        rows = [
            {
                "batch_id": batch_id,
                "state": state,
                "jobs": jobs,
                "bytes": data,
                "generated": generated,
                "needed": needed,
                "rebilled": rebilled,
            }
            for (batch_id, state), (jobs, data, generated, needed, rebilled) in self._rows.items()
            if jobs or data or generated or needed or rebilled
        ]
        if rows and bulk.is_bulk(connection):
            values = [tuple(row.values()) for row in rows]
            bulk.execute(connection, _APPEND, _APPENDED, values)
        elif rows:
            connection.execute(t.job_count.insert(), rows)
        self._rows.clear()


_APPENDED = {"batch_id": "int8", "state": "text"} | dict.fromkeys(
    ("jobs", "bytes", "generated", "needed", "rebilled"), "int8"
)
_APPEND = (
    f"INSERT INTO job_count ({', '.join(_APPENDED)})"  # noqa: S608 - names of our own
    f" SELECT * FROM {bulk.unnest(_APPENDED)}"
)


_c = t.job_count.c
_SUMS = (_c.jobs, _c.bytes, _c.generated, _c.needed, _c.rebilled)


def fold_counts(connection: sa.Connection) -> bool:
    """Fold the deltas into one row per batch and state, if there are many; tell whether it did."""
    groups = (
        sa.select(sa.func.count(_c.id).label("rows")).group_by(_c.batch_id, _c.state).subquery()
    )
    rows, least = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(groups.c.rows), 0), sa.func.count())
    ).one()
    if rows - least < FOLD_AT:
        return False
    # Summed are exactly the rows that this statement removed: another transaction's may commit
    # at any moment, under an id that was given out long before.
    some = sa.select(_c.id).order_by(_c.id).limit(FOLD_MOST).with_for_update(skip_locked=True)
    gone = t.job_count.delete().where(_c.id.in_(some.scalar_subquery()))
    sums: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0] * len(_SUMS))
    for batch_id, state, *row in connection.execute(gone.returning(_c.batch_id, _c.state, *_SUMS)):
        sums[batch_id, state] = [a + b for a, b in zip(sums[batch_id, state], row, strict=True)]
    folded = [
        {"batch_id": batch_id, "state": state}
        | {column.name: value for column, value in zip(_SUMS, values, strict=True)}
        for (batch_id, state), values in sums.items()
        if any(values)
    ]
    if folded:
        connection.execute(t.job_count.insert(), folded)
    return True
