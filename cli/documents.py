"""The JSON documents of the contract, made from what the reads give. Names and keys stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenspool.model import Checkpoint, JobState, Kind
from tokenspool.roots import is_url
from tokenspool.store.lookup import JobDetail, JobLine
from tokenspool.store.reads import Status

#: Claims before the newest whose part may still lie there: each cancel or reclaim raises the epoch.
_NEAR_EPOCHS = 3

Document = dict[str, Any]


def status_document(status: Status) -> Document:
    """Give `status --json`."""
    counts = status.counts
    return {
        "jobs": {"total": counts.total} | {s.value: counts.jobs[s] for s in JobState},
        "bytes": counts.bytes,
        "tokens": {
            "generated": counts.generated,
            "needed": counts.needed,
            "rebilled": counts.rebilled,
            "estimated": status.estimated,
        },
        "oldest_pending_s": _rounded(status.oldest_pending_s),
        "tokens_per_s": _rounded(status.tokens_per_s),
        "eta_s": _rounded(status.eta_s),
        "workers": [
            {
                "id": worker.id,
                "state": worker.state,
                "streams": worker.streams,
                "slots": worker.slots,
                "heartbeat_s": _rounded(worker.heartbeat_s),
            }
            for worker in status.workers
        ],
        "endpoints": [
            {
                "url": endpoint.url,
                "model": endpoint.model,
                "state": endpoint.state,
                "reason": endpoint.reason,
                "limit": endpoint.limit,
                "in_flight": endpoint.in_flight,
                "retry_at": endpoint.retry_at,
            }
            for endpoint in status.endpoints
        ],
        "paused": list(status.paused),
    }


def job_document(line: JobLine) -> Document:
    """Give one job of `jobs --json`."""
    return {
        "id": line.id,
        "custom_id": line.custom_id,
        "batch": line.batch,
        "state": line.state.value,
        "bytes": line.bytes,
        "tokens": line.tokens,
        "attempts": line.attempts,
        "resumes": line.resumes,
        "finish": line.finish,
        "error": error_document(line),
        "output": output_path(line),
    }


def error_document(line: JobLine) -> Document | None:
    """Give a job's error, None when it has none."""
    if line.error is None:
        return None
    return {"kind": line.error.value, "message": line.message, "action": line.action}


def detail_document(detail: JobDetail) -> Document:
    """Give `show --json`."""
    return job_document(detail.line) | {
        "model": detail.model,
        "url": detail.url,
        "priority": detail.priority,
        "created_at": detail.created_at,
        "ended_at": detail.ended_at,
        "run_at": detail.run_at,
        "worker": detail.owner,
        "sha256": detail.sha256.hex() if detail.sha256 else None,
        "checkpoint": _checkpoint_document(detail.checkpoint),
        "attempt": [_plain(attempt) for attempt in detail.attempts],
        "seam": [_plain(seam) for seam in detail.seams],
    }


def output_path(line: JobLine) -> str | None:
    """Give where the text is: the final path or URL, a part's until then, None if nowhere."""
    final = f"{line.root.rstrip('/')}/{line.name}"
    if line.state is JobState.DONE:
        return final
    if is_url(line.root):
        return None  # an object is there whole or not at all
    if line.state is JobState.RUNNING:
        return f"{final}.e{line.epoch}.part" if line.epoch else None
    for epoch in range(line.epoch, max(0, line.epoch - _NEAR_EPOCHS), -1):
        part = f"{final}.e{epoch}.part"
        if Path(part).exists():
            return part
    return None


def _checkpoint_document(checkpoint: Checkpoint | None) -> Document | None:
    if checkpoint is None:
        return None
    spent = checkpoint.spent
    return {
        "position": f"{checkpoint.edition}:{checkpoint.text}",
        "epoch": checkpoint.epoch,
        "seq": checkpoint.seq,
        "edition": checkpoint.edition,
        "offsets": {kind.value: checkpoint.offsets.get(kind, 0) for kind in Kind},
        "stalls": checkpoint.stalls,
        "continuations": checkpoint.continuations,
        "strategy": checkpoint.strategy or None,
        "cursor": checkpoint.cursor or None,
        "tokens": {
            "generated": spent.generated,
            "needed": spent.needed,
            "rebilled": spent.rebilled,
            "estimated": spent.estimated,
        },
    }


def _plain(record: Mapping[str, Any]) -> Document:
    return {name: None if value == "" else value for name, value in record.items()}


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)
