"""`tokenspool cancel`: stop jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.meter import Meter
from cli.options import (
    BatchName,
    Folder,
    command_app,
    invocation,
    same_database,
    same_jobs,
    who,
)
from cli.printing import amount, say, show_json
from cli.resume import choose
from tokenspool.errors import UsageError
from tokenspool.store import actions

app = command_app()


@app.command()
def cancel(
    ctx: typer.Context,
    *,
    batch: BatchName = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="JOB", help="Only this job: id or custom_id.")
    ] = None,
    output: Folder = None,
) -> int:
    """Stop the unfinished jobs of a batch, or one job; their text is kept for `resume`."""
    asked = invocation(ctx)
    if batch is None and job is None:
        msg = "say which jobs: --batch B or --job J"
        raise UsageError(msg)
    with asked.opened(asked.settings(), folder=output) as database, Meter() as meter:
        moved = actions.cancel(
            database,
            choose(database, batch=batch, job=job),
            who=who(),
            progress=lambda so_far: meter.show(f"{amount(so_far, 'job')} cancelled"),
        )
    if asked.as_json:
        show_json({"cancelled": moved})
    elif moved:
        again = f"tokenspool resume{same_database(asked, output)}{same_jobs(batch=batch, job=job)}"
        say(f"{amount(moved, 'job')} cancelled; `{again}` takes them up again")
    else:
        say("nothing to cancel: it has all ended")
    return 0
