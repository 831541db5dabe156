"""`tokenspool cancel`: stop jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.meter import Meter
from cli.options import BatchName, Folder, command_app, invocation, who
from cli.printing import amount, say, show_json
from cli.resume import choose
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
        say(f"{amount(moved, 'job')} cancelled; `tokenspool resume` takes them up again")
    else:
        say("nothing to cancel: it has all ended")
    return 0
