"""Ended jobs with what belongs to their answer: for exports and for checks of the output files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.errors import ErrorKind
from tokenspool.model import ENDED, Checkpoint, Job, JobState
from tokenspool.model import Endpoint as Asked
from tokenspool.store.claims import checkpoint_from

_j, _c, _e = t.job.c, t.checkpoint.c, t.endpoint.c
#: Jobs of one snapshot: their texts are read from it, one after the other.
_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended."""

    id: int
    batch_id: int
    custom_id: str
    state: JobState
    finish: str | None
    error: ErrorKind | None
    message: str
    model: str
    ended_at: float
    #: What came with the input line and is handed back: JSON, None for nothing.
    extra: bytes | None
    root: str
    name: str
    epoch: int
    #: Length and SHA-256 of the published output; None before.
    length: int | None
    sha256: bytes | None
    checkpoint: Checkpoint
    seams: tuple[Mapping[str, Any], ...]
    #: Of the newest answer that had one.
    request_id: str | None

    @property
    def is_pruned(self) -> bool:
        """Whether the journal has let go of the published text."""
        return self.state is JobState.DONE and self.checkpoint.text < (self.length or 0)

    @property
    def path(self) -> str:
        """Where the output is, or would be."""
        return f"{self.root.rstrip('/')}/{self.name}"

    def as_job(self) -> Job:
        """Give it as an output wants it."""
        return Job(
            id=self.id,
            batch_id=self.batch_id,
            custom_id=self.custom_id,
            endpoint=Asked(url="", model=self.model),
            api="",
            body={},
            root=self.root,
            name=self.name,
            epoch=self.epoch,
            checkpoint=self.checkpoint,
            complete=True,
        )


def outcomes(
    database: Database,
    *,
    batch_id: int | None = None,
    states: Iterable[JobState] = ENDED,
    details: bool = True,
) -> Iterator[tuple[sa.Connection, Outcome]]:
    """Yield ended jobs by id, each with the snapshot that its text is to be read from.

    Without `details` seams and request ids are left out.
    """
    ended = (
        sa.select(
            t.job, _e.model, t.output.c.root, *(c.label(f"c_{c.name}") for c in t.checkpoint.c)
        )
        .join(t.endpoint, _e.id == _j.endpoint_id)
        .join(t.output, t.output.c.id == _j.output_id)
        .outerjoin(t.checkpoint, _c.job_id == _j.id)
        .where(_j.state.in_(sorted(state.value for state in states)))
        .order_by(_j.id)
        .limit(_PAGE)
    )
    if batch_id is not None:
        ended = ended.where(_j.batch_id == batch_id)
    after = 0
    while True:
        with database.read() as connection:
            rows = connection.execute(ended.where(_j.id > after)).all()
            if not rows:
                return
            ids = [row.id for row in rows] if details else []
            seams, requests = _seams(connection, ids), _request_ids(connection, ids)
            for row in rows:
                found = _outcome(row, tuple(seams[row.id]), requests.get(row.id))
                yield connection, found
        after = rows[-1].id


def _outcome(
    row: Any,  # noqa: ANN401 - a row of the statement above
    seams: tuple[Mapping[str, Any], ...],
    request_id: str | None,
) -> Outcome:
    # A job that was cancelled before it was ever claimed has no checkpoint.
    point = {c.name: row._mapping[f"c_{c.name}"] for c in t.checkpoint.c}  # noqa: SLF001
    return Outcome(
        id=row.id,
        batch_id=row.batch_id,
        custom_id=row.custom_id,
        state=JobState(row.state),
        finish=row.finish,
        error=ErrorKind(row.error_kind) if row.error_kind else None,
        message=row.error_message or "",
        model=row.model,
        ended_at=row.ended_at or 0.0,
        extra=row.extra,
        root=row.root,
        name=row.name,
        epoch=row.epoch,
        length=row.bytes,
        sha256=row.sha256,
        checkpoint=checkpoint_from(point) if row.c_job_id is not None else Checkpoint(),
        seams=seams,
        request_id=request_id,
    )


def _seams(connection: sa.Connection, ids: list[int]) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    s = t.seam.c
    if ids:
        rows = connection.execute(sa.select(t.seam).where(s.job_id.in_(ids)).order_by(s.id))
        for row in rows.mappings():
            found[row["job_id"]].append({k: v for k, v in row.items() if k not in {"id", "job_id"}})
    return found


def _request_ids(connection: sa.Connection, ids: list[int]) -> dict[int, str]:
    a = t.attempt.c
    if not ids:
        return {}
    newest = (
        sa.select(sa.func.max(a.id))
        .where(a.job_id.in_(ids), a.request_id.is_not(None))
        .group_by(a.job_id)
    )
    rows = connection.execute(sa.select(a.job_id, a.request_id).where(a.id.in_(newest)))
    return {row.job_id: row.request_id for row in rows}
