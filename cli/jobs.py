"""`tokenspool jobs`: a page of jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.documents import job_document
from cli.options import BatchName, ErrorName, Folder, command_app, error_kind, invocation, job_state
from cli.printing import say, show_json, show_table, size
from tokenspool.store import lookup, reads

app = command_app()
_HEAD = ("ID", "CUSTOM_ID", "BATCH", "STATE", "TEXT", "TOKENS", "ATTEMPTS", "RESUMES", "ENDED BY")


@app.command()
def jobs(
    ctx: typer.Context,
    *,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Only in this state.")] = None,
    batch: BatchName = None,
    error: ErrorName = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Jobs at most.")] = 100,
    after: Annotated[int, typer.Option(min=0, metavar="ID", help="Only behind this id.")] = 0,
    output: Folder = None,
) -> int:
    """List jobs by id; the next page begins --after the last id of this one."""
    asked = invocation(ctx)
    wanted, kind = job_state(state), error_kind(error)
    with asked.opened(asked.settings(), folder=output) as database, database.read() as connection:
        chosen = None if batch is None else reads.batch_id(connection, batch)
        only = lookup.Filter(state=wanted, batch_id=chosen, error=kind)
        page = lookup.jobs(connection, only, after=after, limit=limit)
    if asked.as_json:
        show_json({"jobs": [job_document(line) for line in page]})
        return 0
    show_table(_HEAD, [_row(line) for line in page])
    if len(page) == limit:
        say(f"there may be more: the same with --after {page[-1].id}")
    return 0


def _row(line: lookup.JobLine) -> tuple[str, ...]:
    return (
        str(line.id),
        line.custom_id,
        line.batch,
        line.state.value,
        size(line.bytes),
        f"{line.tokens:,}",
        str(line.attempts),
        str(line.resumes),
        line.error.value if line.error else line.finish or "",
    )
