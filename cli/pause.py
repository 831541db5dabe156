"""`tokenspool pause`: let nothing new begin on a batch or an endpoint."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from cli.options import BatchName, Folder, command_app, invocation, same_database, who
from cli.printing import amount, say, show_json
from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.model import JobState
from tokenspool.store import pauses, reads

app = command_app()
EndpointName = Annotated[
    str | None,
    typer.Option("--endpoint", metavar="E", help="Its base URL, or 'URL MODEL' for one model."),
]


@app.command()
def pause(
    ctx: typer.Context,
    *,
    batch: BatchName = None,
    endpoint: EndpointName = None,
    output: Folder = None,
) -> int:
    """Begin no more jobs of a batch or on an endpoint; those that run go on to their end."""
    asked = invocation(ctx)
    with asked.opened(asked.settings(), folder=output) as database:
        target = choose(database, batch=batch, endpoint=endpoint)
        changed = pauses.pause(database, target, who=who())
        running = _running(database, target)
    if asked.as_json:
        show_json({"paused": changed})
    elif changed:
        what = amount(changed, "endpoint") if endpoint else f"batch {batch!r}"
        go_on = f"; {amount(running, 'job')} running there to the end" if running else ""
        again = f"tokenspool unpause{same_database(asked, output)}"
        option, name = ("--endpoint", endpoint) if endpoint else ("--batch", batch or "")
        say(f"{what} paused{go_on}; `{again} {option} {shlex.quote(name)}` lets it go on")
    else:
        say("nothing to pause: it is paused already")
    return 0


def choose(database: Database, *, batch: str | None, endpoint: str | None) -> pauses.Target:
    """Turn names into ids; raises `UsageError` for an unknown one, or unless one was said."""
    if (batch is None) == (endpoint is None):
        msg = "say one thing: --batch B or --endpoint E"
        raise UsageError(msg)
    with database.read() as connection:
        if batch is not None:
            return pauses.Target(batch_id=reads.batch_id(connection, batch))
        return pauses.Target(endpoint_ids=pauses.find_endpoints(connection, endpoint or ""))


def _running(database: Database, target: pauses.Target) -> int:
    """Count the jobs that go on although it is paused."""
    with database.read() as connection:
        if target.batch_id is not None:
            return reads.counts(connection, batch=target.batch_id).jobs[JobState.RUNNING]
        return pauses.running_on(connection, target)
