"""The rows of a beat: what its entries say, as the columns of the tables."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenspool.model import (
    Attempt,
    Completed,
    Ending,
    Entry,
    Failure,
    GaveUp,
    GivenBack,
    JobState,
    Kind,
    Postponed,
)
from tokenspool.store.counts import Tally

#: The values of `advance_rows`, in their order: what is set, then what must stand.
ADVANCED = (
    "seq", "edition", "text", "reasoning", "refusal", "tool", "furthest", "stalls",
    "continuations", "generated", "needed", "rebilled", "estimated", "strategy", "cursor",
)  # fmt: skip
FENCE = ("job_id", "epoch", "seq")


def advance_rows(entries: Iterable[Entry]) -> list[tuple[Any, ...]]:
    """Give where each checkpoint goes, and the (epoch, seq) that must stand for it."""
    return [
        (
            e.after.seq,
            e.after.edition,
            e.after.offsets.get(Kind.TEXT, 0),
            e.after.offsets.get(Kind.REASONING, 0),
            e.after.offsets.get(Kind.REFUSAL, 0),
            e.after.offsets.get(Kind.TOOL, 0),
            e.after.furthest,
            e.after.stalls,
            e.after.continuations,
            e.after.spent.generated,
            e.after.spent.needed,
            e.after.spent.rebilled,
            e.after.spent.estimated,
            e.after.strategy,
            e.after.cursor,
            e.job.id,
            e.before.epoch,
            e.before.seq,
        )
        for e in entries
    ]


#: The columns of `segment_rows`, and their types in PostgreSQL.
SEGMENT = {
    "job_id": "int8",
    "edition": "int4",
    "kind": "varchar",
    "start": "int8",
    "seq": "int4",
    "crc": "int8",
    "data": "bytea",
}


def segment_rows(entries: Iterable[Entry]) -> list[tuple[Any, ...]]:
    """Give the text that the checkpoints cover."""
    return [
        (e.job.id, s.edition, s.kind.value, s.start, s.seq, zlib.crc32(s.data), s.data)
        for e in entries
        for s in e.segments
    ]


def attempt_rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Give the records of the answers that ended."""
    return [_attempt_row(e, a) for e in entries for a in e.attempts]


def _attempt_row(entry: Entry, attempt: Attempt) -> dict[str, Any]:
    failure = attempt.failure
    return {
        "job_id": entry.job.id,
        "epoch": entry.job.epoch,
        "worker": entry.worker,
        "strategy": attempt.strategy,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "outcome": attempt.outcome,
        "error_kind": failure.kind.value if failure else None,
        "error_message": _storable(failure.message) if failure else None,
        "edition": attempt.edition,
        "from_offset": attempt.from_offset,
        "to_offset": attempt.to_offset,
        "first_token_s": attempt.first_token_s,
        "request_id": attempt.request_id and _storable(attempt.request_id),
        "generated": attempt.generated,
        "rebilled": attempt.rebilled,
        "skipped": attempt.skipped,
    }


def seam_rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Give the seams; when they were made is the database's to say."""
    return [
        {
            "job_id": e.job.id,
            "edition": s.edition,
            "offset": s.offset,
            "strategy": s.strategy.value,
            "cause": s.cause,
            "overlap": s.overlap,
            "verified": s.verified,
            "rebilled": s.rebilled,
        }
        for e in entries
        for s in e.seams
    ]


def resumed_rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Give how many more times each job was taken up again."""
    return [{"job": e.job.id, "more": len(e.seams)} for e in entries if e.seams]


def end_rows(entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
    """Give what becomes of the jobs that ended."""
    for e in entries:
        if e.ending is not None:
            yield _ending_row(e.ending) | {
                "job": e.job.id,
                "at_epoch": e.job.epoch,
                "to_bytes": e.after.text,
            }


def tally_of(entries: Iterable[Entry], ends: Sequence[dict[str, Any]]) -> Tally:
    """Count what the entries add to their batches, and the moves of the jobs that ended."""
    tally = Tally()
    batches = {}
    for e in entries:
        before, after = e.before, e.after
        batches[e.job.id] = e.job.batch_id
        tally.grow(
            e.job.batch_id,
            data=after.text - before.text,
            generated=after.spent.generated - before.spent.generated,
            needed=after.spent.needed - before.spent.needed,
            rebilled=after.spent.rebilled - before.spent.rebilled,
        )
    for end in ends:
        tally.move(batches[end["job"]], JobState.RUNNING, JobState(end["to_state"]))
    return tally


def _ending_row(ending: Ending) -> dict[str, Any]:
    row: dict[str, Any] = {
        "spent": 0,
        "to_cause": "",
        "delay_s": None,
        "to_finish": None,
        "to_error": None,
        "to_message": None,
    }
    match ending:
        case Completed(finish=finish):
            return row | {"to_state": JobState.COMPLETE.value, "to_finish": finish, "spent": 1}
        case GivenBack(cause=cause):
            return row | {"to_state": JobState.PENDING.value, "to_cause": cause}
        case Postponed(failure=failure, delay_s=delay_s, spends=spends):
            row |= {"to_state": JobState.WAITING.value, "delay_s": delay_s, "spent": int(spends)}
            return row | _failure_row(failure)
        case GaveUp(failure=failure, spends=spends):
            row |= {"to_state": JobState.FAILED.value, "spent": int(spends)}
            return row | _failure_row(failure)


def _failure_row(failure: Failure) -> dict[str, Any]:
    return {
        "to_cause": failure.kind.value,
        "to_error": failure.kind.value,
        "to_message": _storable(failure.message),
    }


def _storable(said: str) -> str:
    """Give what an endpoint said without what a text column refuses: NULs and half characters."""
    return said.encode(errors="replace").decode().replace("\0", "\ufffd")
