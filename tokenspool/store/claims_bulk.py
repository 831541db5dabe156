"""What claims and reclaims write on PostgreSQL: one statement for each kind of row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.model import JobState
from tokenspool.store import bulk

Row = Mapping[str, Any]


def raise_checkpoints(connection: sa.Connection, rows: Sequence[Row]) -> list[Row]:
    """Bring the checkpoints to their jobs' epoch, making the first ones; give them.

    The rows are checkpoints as they begin, in the order of all locks: by job.
    """
    values = [(row["job_id"], row["epoch"]) for row in rows]
    first = [name for name in rows[0] if name not in _EPOCHS]
    begin = ", ".join(repr(rows[0][name]) for name in first)  # 0, False or ''
    raised = bulk.execute(
        connection,
        f"INSERT INTO checkpoint (job_id, epoch, {', '.join(first)})"  # noqa: S608 - our own
        f" SELECT n.job_id, n.epoch, {begin} FROM {bulk.unnest(_EPOCHS)} ORDER BY n.job_id"
        " ON CONFLICT (job_id) DO UPDATE SET epoch = excluded.epoch"
        f" RETURNING {', '.join(t.checkpoint.c.keys())}",
        _EPOCHS,
        values,
    )
    return [row._mapping for row in raised]  # noqa: SLF001 - it is public


_EPOCHS = {"job_id": "int8", "epoch": "int8"}


def set_positions(connection: sa.Connection, rows: Sequence[Row]) -> None:
    """Note where the claims of locked jobs begin; whoever chose them went by indexes already."""
    bulk.execute(connection, _POSITION, _POSITIONS, _values(_POSITIONS, rows))


_POSITIONS = {"job": "int8", "edition": "int8", "offset": "int8"}
_POSITION = (
    'UPDATE job SET claimed_edition = n.edition, claimed_offset = n."offset"'  # noqa: S608
    f" FROM {bulk.unnest(_POSITIONS)} WHERE id = n.job"
)


def give_back(connection: sa.Connection, changes: Sequence[Row], attempts: Sequence[Row]) -> None:
    """Take locked jobs from their dead owners, under a new epoch, with a record of each."""
    bulk.find_by_index(connection)
    bulk.lock_checkpoints(connection, (row["job"] for row in changes))
    bulk.execute(connection, _GIVE_BACK, _CHANGES, _values(_CHANGES, changes))
    epochs = [(row["job"], row["at_epoch"] + 1) for row in changes]
    bulk.execute(connection, _RAISE_EPOCH, _EPOCHS, epochs)
    bulk.execute(connection, _RECORD, _ATTEMPTS, _values(_ATTEMPTS, attempts))


_CHANGES = {
    "job": "int8",
    "at_epoch": "int8",
    "to_state": "text",
    "to_crashes": "int8",
    "to_cause": "text",
    "to_error": "text",
    "to_message": "text",
}
_GIVE_BACK = (
    "UPDATE job SET state = n.to_state, epoch = epoch + 1, owner = NULL,"  # noqa: S608
    " crashes = n.to_crashes, cause = n.to_cause, error_kind = n.to_error,"
    " error_message = n.to_message,"
    f" ended_at = CASE WHEN n.to_state = '{JobState.FAILED}' THEN {bulk.CLOCK} END"
    f" FROM {bulk.unnest(_CHANGES)}"
    f" WHERE id = n.job AND epoch = n.at_epoch AND state = '{JobState.RUNNING}'"
)
_RAISE_EPOCH = (
    "UPDATE checkpoint AS c SET epoch = n.epoch"  # noqa: S608
    f" FROM {bulk.unnest(_EPOCHS)} WHERE c.job_id = n.job_id"
)
_ATTEMPTS = {
    "job_id": "int8",
    "epoch": "int8",
    "worker": "text",
    "strategy": "text",
    "started_at": "float8",
    "outcome": "text",
    "edition": "int8",
    "from_offset": "int8",
    "to_offset": "int8",
}
_RECORD = (
    f"INSERT INTO attempt ({', '.join(_ATTEMPTS)}, ended_at)"  # noqa: S608 - names of our own
    f" SELECT n.*, {bulk.CLOCK} FROM {bulk.unnest(_ATTEMPTS)}"
)


def _values(columns: bulk.Columns, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in columns) for row in rows]
