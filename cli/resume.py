"""`tokenspool resume`: take failed and cancelled jobs up again."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.meter import Meter
from cli.options import (
    BatchName,
    ErrorName,
    Folder,
    command_app,
    error_kind,
    invocation,
    who,
    work_again,
)
from cli.printing import amount, say, show_json
from cli.waking import broker_of, wake
from tokenspool.database import Database
from tokenspool.errors import ErrorKind, UsageError
from tokenspool.model import JobState
from tokenspool.store import actions, lookup, reads

app = command_app()


@app.command()
def resume(
    ctx: typer.Context,
    *,
    batch: BatchName = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="JOB", help="Only this job: id or custom_id.")
    ] = None,
    error: ErrorName = None,
    all_failed: Annotated[
        bool, typer.Option("--all-failed", help="Failed jobs only, not cancelled ones.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; the text so far stays until pruned.")
    ] = False,
    output: Folder = None,
) -> int:
    """Queue failed and cancelled jobs again; `run` or a worker goes on from their last checkpoint.

    Conditions add up: `--batch B --error server` means both.
    """
    asked = invocation(ctx)
    kind = error_kind(error)
    if batch is None and job is None and kind is None and not all_failed:
        msg = "say which jobs: --batch B, --job J, --error KIND or --all-failed"
        raise UsageError(msg)
    settings = asked.settings()
    broker = broker_of(settings)
    with asked.opened(settings, folder=output) as database, Meter() as meter:
        chosen = choose(database, batch=batch, job=job, error=kind, failed_only=all_failed)
        moved = actions.resume(
            database,
            chosen,
            who=who(),
            restart=restart,
            progress=lambda so_far: meter.show(f"{amount(so_far, 'job')} queued again"),
        )
        standing = _standing(database, chosen)
    if moved:
        wake(broker, database)
    if asked.as_json:
        show_json({"resumed": moved})
    elif moved:
        work = work_again(asked, output)
        say(f"{amount(moved, 'job')} queued again; `{work}` or a worker does the work")
    else:
        say(f"nothing to resume: {standing}")
    return 0


def choose(
    database: Database,
    *,
    batch: str | None,
    job: str | None,
    error: ErrorKind | None = None,
    failed_only: bool = False,
) -> actions.Chosen:
    """Turn names into ids; raises `UsageError` for an unknown one, or when nothing was said."""
    with database.read() as connection:
        batch_id = None if batch is None else reads.batch_id(connection, batch)
        job_id = None if job is None else lookup.find_job(connection, job, batch=batch_id)
    return actions.Chosen(job_id=job_id, batch_id=batch_id, error=error, failed_only=failed_only)


def _standing(database: Database, chosen: actions.Chosen) -> str:
    """Say how what was chosen stands."""
    with database.read() as connection:
        if chosen.job_id is not None:
            return f"the job is {lookup.show(connection, chosen.job_id).line.state}"
        counts = reads.counts(connection, batch=chosen.batch_id)
    left = ", ".join(f"{n:,} {s}" for s, n in counts.jobs.items() if n and s is not JobState.DONE)
    return left or "all jobs are done"
