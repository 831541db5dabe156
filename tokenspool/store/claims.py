"""Claims: who may write a job's text. Every claim raises the epoch, in the job and its checkpoint.

Whoever holds an older epoch finds no row to update any more and has thereby lost the job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tokenspool import tables as t
from tokenspool.database import now
from tokenspool.model import Checkpoint, Endpoint, Job, JobState, Kind, Resume, Spent
from tokenspool.store import bulk, claims_bulk
from tokenspool.store.choosing import CHANCE, Chance, choose
from tokenspool.store.counts import Tally
from tokenspool.store.workers import lives

_j, _c = t.job.c, t.checkpoint.c
Row = Mapping[str, Any]


def insert_for(connection: sa.Connection, table: sa.Table) -> Any:  # noqa: ANN401 - two classes
    """Give the dialect's INSERT that knows ON CONFLICT."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def _once(chosen: sa.Select[Any]) -> sa.Select[Any]:
    """Choose rows exactly once: PostgreSQL may run a locking subquery anew for every row."""
    cte = chosen.cte().prefix_with("MATERIALIZED", dialect="postgresql")
    return sa.select(cte.c.id)


def claim_ready(
    connection: sa.Connection,
    *,
    worker: str,
    endpoint_id: int,
    limit: int,
    leased: bool = False,
    chance: Chance = CHANCE,
) -> list[Job]:
    """Claim up to `limit` pending or dispatched jobs of an endpoint for `worker`, best first.

    Which are the best is said in `choose`. Once committed, each job is `running`, owned by the
    worker, under a new epoch; its position comes from the statement that raised the epoch, never
    from an earlier read. With `leased` a worker that was declared dead, or whose lease has run
    out, claims nothing.
    """
    if leased and not lives(connection, worker):
        return []
    best = choose(connection, endpoint_id=endpoint_id, limit=limit, chance=chance)
    if not best:
        return []
    before = {choice.id: choice.state for choice in best}
    still = bulk.among(connection, _j.id, list(before)) & t.claimable()
    values = {"state": JobState.RUNNING.value, "claimed_at": now(), "run_at": None}
    claimed = _raise_epochs(connection, still, worker=worker, values=values)
    if not claimed:
        return []
    checkpoints = _raise_checkpoints(connection, claimed)
    positions = [_position(row["id"], checkpoints[row["id"]]) for row in claimed]
    if bulk.is_bulk(connection):
        claims_bulk.set_positions(connection, positions)
    else:
        connection.execute(_SET_CLAIMED_POSITION, positions)
    tally = Tally()
    for row in claimed:
        tally.move(row["batch_id"], before[row["id"]], JobState.RUNNING)
    tally.write(connection)
    return _jobs(connection, claimed, checkpoints)


def claim_complete(
    connection: sa.Connection, *, worker: str, limit: int, leased: bool = False
) -> list[Job]:
    """Claim up to `limit` complete jobs that nobody owns, to publish them; `leased` as above."""
    if leased and not lives(connection, worker):
        return []
    ownerless = (
        sa.select(_j.id)
        .where(t.has_state(JobState.COMPLETE), _j.owner.is_(None))
        .order_by(_j.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    chosen = _j.id.in_(_once(ownerless)) & t.has_state(JobState.COMPLETE)
    claimed = _raise_epochs(connection, chosen, worker=worker, values={})
    if not claimed:
        return []
    checkpoints = _raise_checkpoints(connection, claimed)
    return _jobs(connection, claimed, checkpoints, complete=True)


def _raise_epochs(
    connection: sa.Connection,
    chosen: sa.ColumnElement[bool],
    *,
    worker: str,
    values: Mapping[str, Any],
) -> list[Row]:
    """Give the chosen jobs to the worker, under a new epoch; give their rows, best first."""
    rows = connection.execute(
        sa.update(t.job)
        .where(chosen)
        .values({"owner": worker, "epoch": _j.epoch + 1, **values})
        .returning(*_JOB_COLUMNS)
    ).mappings()
    return sorted(map(dict, rows), key=lambda row: (-row["priority"], row["id"]))


def _jobs(
    connection: sa.Connection,
    claimed: Sequence[Row],
    checkpoints: Mapping[int, Checkpoint],
    *,
    complete: bool = False,
) -> list[Job]:
    endpoints = _endpoints(connection, {row["endpoint_id"] for row in claimed})
    roots = _roots(connection, {row["output_id"] for row in claimed})
    return [
        _job(
            row,
            checkpoint=checkpoints[row["id"]],
            endpoint=endpoints[row["endpoint_id"]],
            root=roots[row["output_id"]],
            complete=complete,
        )
        for row in claimed
    ]


_JOB_COLUMNS = (
    _j.id,
    _j.batch_id,
    _j.endpoint_id,
    _j.output_id,
    _j.custom_id,
    _j.name,
    _j.api,
    _j.body,
    _j.priority,
    _j.resume,
    _j.max_output_tokens,
    _j.max_continuations,
    _j.max_attempts,
    _j.attempts,
    _j.on_seam,
    _j.cause,
    _j.epoch,
)

_SET_CLAIMED_POSITION = (
    sa.update(t.job)
    .where(_j.id == sa.bindparam("job"))
    .values(claimed_edition=sa.bindparam("edition"), claimed_offset=sa.bindparam("offset"))
)


def _position(job_id: int, checkpoint: Checkpoint) -> dict[str, int]:
    return {"job": job_id, "edition": checkpoint.edition, "offset": checkpoint.total}


def _raise_checkpoints(connection: sa.Connection, claimed: Sequence[Row]) -> dict[int, Checkpoint]:
    """Bring the checkpoints to the jobs' new epoch, making the first one where there is none."""
    insert = insert_for(connection, t.checkpoint)
    rows = [
        {
            "job_id": row["id"],
            "epoch": row["epoch"],
            "seq": 0,
            "edition": 1,
            "text": 0,
            "reasoning": 0,
            "refusal": 0,
            "tool": 0,
            "furthest": 0,
            "stalls": 0,
            "continuations": 0,
            "generated": 0,
            "needed": 0,
            "rebilled": 0,
            "estimated": False,
            "strategy": "",
            "cursor": "",
        }
        for row in sorted(claimed, key=lambda row: row["id"])  # the order of all locks
    ]
    if bulk.is_bulk(connection):
        made = claims_bulk.raise_checkpoints(connection, rows)
        return {row["job_id"]: checkpoint_from(row) for row in made}
    raised = connection.execute(
        insert.on_conflict_do_update(
            index_elements=["job_id"], set_={"epoch": insert.excluded.epoch}
        ).returning(*t.checkpoint.c),
        rows,
    ).mappings()
    return {row["job_id"]: checkpoint_from(dict(row)) for row in raised}


def checkpoint_from(row: Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint row."""
    return Checkpoint(
        epoch=row["epoch"],
        seq=row["seq"],
        edition=row["edition"],
        offsets={kind: row[kind.value] for kind in Kind},
        furthest=row["furthest"],
        stalls=row["stalls"],
        continuations=row["continuations"],
        spent=Spent(
            generated=row["generated"],
            needed=row["needed"],
            rebilled=row["rebilled"],
            estimated=bool(row["estimated"]),
        ),
        strategy=row["strategy"],
        cursor=row["cursor"],
    )


def _endpoints(connection: sa.Connection, ids: set[int]) -> dict[int, Endpoint]:
    e = t.endpoint.c
    rows = connection.execute(sa.select(e.id, e.url, e.model, e.api_key_env).where(e.id.in_(ids)))
    return {
        row.id: Endpoint(id=row.id, url=row.url, model=row.model, api_key_env=row.api_key_env)
        for row in rows
    }


def _roots(connection: sa.Connection, ids: set[int]) -> dict[int, str]:
    o = t.output.c
    rows = connection.execute(sa.select(o.id, o.root).where(o.id.in_(ids)))
    return {row.id: row.root for row in rows}


def _job(
    row: Mapping[str, Any],
    *,
    checkpoint: Checkpoint,
    endpoint: Endpoint,
    root: str,
    complete: bool,
) -> Job:
    return Job(
        id=row["id"],
        batch_id=row["batch_id"],
        custom_id=row["custom_id"],
        endpoint=endpoint,
        api=row["api"],
        body=json.loads(row["body"]),
        root=root,
        name=row["name"],
        epoch=row["epoch"],
        checkpoint=checkpoint,
        resume=Resume(row["resume"]),
        max_output_tokens=row["max_output_tokens"],
        max_continuations=row["max_continuations"],
        max_attempts=row["max_attempts"],
        attempts=row["attempts"],
        on_seam=row["on_seam"],
        complete=complete,
        cause=row["cause"],
    )


def wake_due(connection: sa.Connection, *, limit: int = 1000) -> int:
    """Move waiting jobs whose time has come to pending; give how many."""
    due = (
        sa.select(_j.id)
        .where(t.has_state(JobState.WAITING), _j.run_at <= now())
        .order_by(_j.run_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(
        sa.update(t.job)
        .where(_j.id.in_(_once(due)), t.has_state(JobState.WAITING))
        .values(state=JobState.PENDING.value, run_at=None)
        .returning(_j.batch_id)
    ).all()
    tally = Tally()
    for row in rows:
        tally.move(row.batch_id, JobState.WAITING, JobState.PENDING)
    tally.write(connection)
    return len(rows)


def reclaim(
    connection: sa.Connection,
    *,
    dead: Sequence[str] | None,
    max_crashes: int,
    crashed: bool = True,
) -> int:
    """Take the jobs of dead workers back; give how many.

    `dead` None means every owner: the caller holds the lock that proves that nobody else lives.
    Without `crashed` a worker leaves in peace, and what it still owns costs nothing. A running job
    goes back to pending under a new epoch. Its text grew since it was claimed: the crash was not
    its doing. It did not: it counts, and beyond `max_crashes` in a row the job fails, so that a job
    that kills its worker cannot do so for ever.
    """
    owned = _j.owner.is_not(None) if dead is None else _j.owner.in_(dead)
    connection.execute(
        sa.update(t.job).where(owned, t.has_state(JobState.COMPLETE)).values(owner=None)
    )
    rows = connection.execute(
        sa.select(_j.id, _j.batch_id, _j.owner, _j.epoch, _j.crashes)
        .add_columns(_j.claimed_at, _j.claimed_edition, _j.claimed_offset)
        .add_columns(_c.edition, _c.text, _c.strategy)
        .add_columns((_c.text + _c.reasoning + _c.refusal + _c.tool).label("total"))
        .join(t.checkpoint, _c.job_id == _j.id)
        .where(owned, t.has_state(JobState.RUNNING))
        .order_by(_j.id)
        .with_for_update(of=t.job, skip_locked=True)
    ).all()
    if not rows:
        return 0
    tally = Tally()
    changes, attempts = [], []
    for row in rows:
        # An edition that began under this claim grew from zero, not from the old one's length.
        same = row.claimed_edition == row.edition
        begun_at = row.claimed_offset or 0 if same else 0
        gained = row.total > begun_at
        crashes = 0 if gained else row.crashes + int(crashed)
        failed = crashes > max_crashes
        state = JobState.FAILED if failed else JobState.PENDING
        message = f"its worker died {crashes} times in a row while it ran" if failed else None
        tally.move(row.batch_id, JobState.RUNNING, state)
        changes.append(
            {
                "job": row.id,
                "at_epoch": row.epoch,
                "to_state": state.value,
                "to_crashes": crashes,
                "to_cause": "crash" if crashed else "drain",
                "to_error": "storage" if failed else None,
                "to_message": message,
            }
        )
        attempts.append(
            {
                "job_id": row.id,
                "epoch": row.epoch,
                "worker": row.owner,
                "strategy": row.strategy if row.claimed_offset else "",
                "started_at": row.claimed_at,
                "outcome": "crashed" if crashed else "given_back",
                "edition": row.edition,
                "from_offset": min(begun_at, row.text),
                "to_offset": row.text,
            }
        )
    if bulk.is_bulk(connection):
        claims_bulk.give_back(connection, changes, attempts)
    else:
        connection.execute(_GIVE_BACK, changes)
        epochs = [{"job": row.id, "to_epoch": row.epoch + 1} for row in rows]
        connection.execute(_RAISE_EPOCH, epochs)
        connection.execute(t.attempt.insert().values(ended_at=now()), attempts)
    tally.write(connection)
    return len(rows)


_GIVE_BACK = (
    sa.update(t.job)
    .where(
        _j.id == sa.bindparam("job"),
        _j.epoch == sa.bindparam("at_epoch"),
        t.has_state(JobState.RUNNING),
    )
    .values(
        state=sa.bindparam("to_state"),
        epoch=_j.epoch + 1,
        owner=None,
        crashes=sa.bindparam("to_crashes"),
        cause=sa.bindparam("to_cause"),
        error_kind=sa.bindparam("to_error"),
        error_message=sa.bindparam("to_message"),
        ended_at=sa.case((sa.bindparam("to_state") == JobState.FAILED.value, now()), else_=None),
    )
)
_RAISE_EPOCH = (
    sa.update(t.checkpoint)
    .where(_c.job_id == sa.bindparam("job"))
    .values(epoch=sa.bindparam("to_epoch"))
)


def lost(connection: sa.Connection, owners: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Give those of the claims (job, epoch) that no longer stand."""
    if not owners:
        return set()
    rows = connection.execute(
        sa.select(_j.id, _j.epoch).where(_j.id.in_([job_id for job_id, _ in owners]))
    )
    stand = {(row.id, row.epoch) for row in rows}
    return set(owners) - stand
