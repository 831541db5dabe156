"""`tokenspool show`: all that is on record about one job."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer

from cli import documents, printing
from cli.options import BatchName, Folder, command_app, invocation
from tokenspool.store import lookup, reads

app = command_app()


@app.command()
def show(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="An id or a unique custom_id.")],
    *,
    batch: BatchName = None,
    output: Folder = None,
) -> int:
    """All that is on record about one job: attempts, seams, checkpoint."""
    asked = invocation(ctx)
    with asked.opened(asked.settings(), folder=output) as database, database.read() as connection:
        chosen = None if batch is None else reads.batch_id(connection, batch)
        detail = lookup.show(connection, lookup.find_job(connection, job, batch=chosen))
    if asked.as_json:
        printing.show_json(documents.detail_document(detail))
    else:
        for line in _lines(detail):
            printing.show(line)
    return 0


def _lines(detail: lookup.JobDetail) -> Iterator[str]:
    line, point = detail.line, detail.checkpoint
    finish = f", finish {line.finish}" if line.finish else ""
    yield f"job        {line.id}: {line.custom_id} of batch {line.batch}"
    yield f"state      {line.state}{finish}; {printing.amount(line.attempts, 'attempt')} spent"
    yield f"asks       {detail.model} at {detail.url}"
    yield f"output     {documents.output_path(line) or 'nothing yet'}"
    if point is not None:
        about = "about " if point.spent.estimated else ""
        yield (
            f"text       {printing.size(point.text)} saved, position {point.edition}:{point.text},"
            f" {about}{printing.amount(point.spent.needed, 'token')}"
            f" ({point.spent.generated:,} generated)"
        )
    if line.error is not None:
        yield f"error      {line.error}: {line.message}"
        yield f"to do      {line.action}"
    for attempt in detail.attempts:
        why = (
            f", {attempt['error_kind']}: {attempt['error_message']}"
            if attempt["error_kind"]
            else ""
        )
        yield (
            f"attempt    {_time(attempt['ended_at'])} {attempt['outcome']}"
            f" {attempt['strategy'] or 'from the start'}, bytes {attempt['from_offset']:,} to"
            f" {attempt['to_offset']:,}{why}"
        )
    for seam in detail.seams:
        proof = "verified" if seam["verified"] else "unverified"
        yield (
            f"seam       at {seam['edition']}:{seam['offset']} by {seam['strategy']} after"
            f" {seam['cause']}, {proof}, {seam['overlap']} bytes of overlap removed"
        )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
