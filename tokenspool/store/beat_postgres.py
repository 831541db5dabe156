"""The beat on PostgreSQL: one statement for each kind of row, however many entries there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tokenspool.database import Database
from tokenspool.model import Entry, JobState
from tokenspool.store import beat_rows as rows_of
from tokenspool.store import bulk

Owner = tuple[int, int]


def commit(database: Database, entries: Sequence[Entry]) -> frozenset[Owner]:
    """Commit the entries whose claim stands; give the claims that were lost.

    The locked checkpoints say exactly which stand, so the lost ones cost the others nothing.
    """
    if not entries:
        return frozenset()
    with database.write() as connection:
        bulk.find_by_index(connection)
        # Locks are taken in one order everywhere, jobs by id and then checkpoints by id, or two
        # transactions wait for each other. An UPDATE alone takes them in the planner's order.
        bulk.lock_jobs(connection, (e.job.id for e in entries if e.ending is not None or e.seams))
        found = bulk.lock_checkpoints(connection, (e.job.id for e in entries))
        settled = [e for e in entries if found.get(e.job.id) == _goal(e)]
        ours = [e for e in entries if found.get(e.job.id, ())[:2] == (e.before.epoch, e.before.seq)]
        advanced = _advance(connection, ours)
        kept = [e for e in ours if e.job.id in advanced]
        _write(connection, kept)
    return frozenset(e.job.owner_key for e in entries) - {e.job.owner_key for e in settled + kept}


def _goal(entry: Entry) -> tuple[int, int, int]:
    """Give where the checkpoint stands once the entry is committed."""
    return (entry.after.epoch, entry.after.seq, entry.after.text)


def _advance(connection: sa.Connection, entries: Sequence[Entry]) -> set[int]:
    """Move the checkpoints forward where (epoch, seq) is still ours; give the jobs of those."""
    rows = rows_of.advance_rows(entries)
    return {job_id for (job_id,) in bulk.execute(connection, _ADVANCE, _ADVANCED, rows)}


_TYPES = {"estimated": "bool", "strategy": "text", "cursor": "text"}
_ADVANCED = {f"to_{name}": _TYPES.get(name, "int8") for name in rows_of.ADVANCED} | dict.fromkeys(
    rows_of.FENCE, "int8"
)
# The fence is in the row that is written. What a text column has no room for is refused: `text`
# becomes `varchar` in the assignment, where a cast to it would cut.
_SET = ", ".join(f"{name} = n.to_{name}" for name in rows_of.ADVANCED)
_ADVANCE = (
    f"UPDATE checkpoint AS c SET {_SET}"  # noqa: S608 - names of our own
    f" FROM {bulk.unnest(_ADVANCED)}"
    f" WHERE {' AND '.join(f'c.{name} = n.{name}' for name in rows_of.FENCE)}"
    " RETURNING c.job_id"
)


def _write(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Write what goes with the advanced checkpoints."""
    bulk.copy(connection, "segment", rows_of.SEGMENT, rows_of.segment_rows(entries))
    bulk.copy(connection, "attempt", _ATTEMPT, _values(_ATTEMPT, rows_of.attempt_rows(entries)))
    bulk.execute(connection, _SEAMS, _SEAM, _values(_SEAM, rows_of.seam_rows(entries)))
    bulk.execute(connection, _RESUMED, _RESUME, _values(_RESUME, rows_of.resumed_rows(entries)))
    ends = list(rows_of.end_rows(entries))
    bulk.execute(connection, _ENDED, _END, _values(_END, ends))
    rows_of.tally_of(entries, ends).write(connection)


def _values(columns: bulk.Columns, rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in columns) for row in rows]


_ATTEMPT = {
    "job_id": "int8",
    "epoch": "int4",
    "worker": "varchar",
    "strategy": "varchar",
    "started_at": "float8",
    "ended_at": "float8",
    "outcome": "varchar",
    "error_kind": "varchar",
    "error_message": "text",
    "edition": "int4",
    "from_offset": "int8",
    "to_offset": "int8",
    "first_token_s": "float8",
    "request_id": "text",
    "generated": "int8",
    "rebilled": "int8",
    "skipped": "int4",
}
_SEAM = {
    "job_id": "int8",
    "edition": "int8",
    "offset": "int8",
    "strategy": "text",
    "cause": "text",
    "overlap": "int8",
    "verified": "bool",
    "rebilled": "int8",
}
_SEAMS = (
    'INSERT INTO seam (job_id, edition, "offset", strategy, cause, overlap, verified,'  # noqa: S608
    f" rebilled, at) SELECT n.*, {bulk.CLOCK} FROM {bulk.unnest(_SEAM)}"
)
_RESUME = {"job": "int8", "more": "int8"}
_RESUMED = f"UPDATE job SET resumes = resumes + n.more FROM {bulk.unnest(_RESUME)} WHERE id = n.job"  # noqa: S608
_END = {
    "job": "int8",
    "at_epoch": "int8",
    "to_state": "text",
    "spent": "int8",
    "to_cause": "text",
    "delay_s": "float8",
    "to_finish": "text",
    "to_error": "text",
    "to_message": "text",
    "to_bytes": "int8",
}
_ENDED = (
    "UPDATE job SET state = n.to_state,"  # noqa: S608 - names of our own
    # A complete job stays with its worker, who goes on to publish it.
    f" owner = CASE WHEN n.to_state = '{JobState.COMPLETE}' THEN owner END,"
    " attempts = attempts + n.spent, crashes = 0, cause = n.to_cause,"
    f" run_at = {bulk.CLOCK} + n.delay_s, finish = n.to_finish,"
    " error_kind = n.to_error, error_message = n.to_message, bytes = n.to_bytes,"
    f" ended_at = CASE WHEN n.to_state = '{JobState.FAILED}' THEN {bulk.CLOCK} END"
    f" FROM {bulk.unnest(_END)}"
    f" WHERE id = n.job AND epoch = n.at_epoch AND state = '{JobState.RUNNING}'"
)
