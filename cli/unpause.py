"""`tokenspool unpause`: let a batch or an endpoint go on."""

from __future__ import annotations

import typer

from cli.options import BatchName, Folder, command_app, invocation, who, work_again
from cli.pause import EndpointName, choose
from cli.printing import amount, say, show_json
from cli.waking import broker_of, wake
from tokenspool.store import pauses

app = command_app()


@app.command()
def unpause(
    ctx: typer.Context,
    *,
    batch: BatchName = None,
    endpoint: EndpointName = None,
    output: Folder = None,
) -> int:
    """Let the jobs of a paused batch or on a paused endpoint begin again."""
    asked = invocation(ctx)
    settings = asked.settings()
    broker = broker_of(settings)
    with asked.opened(settings, folder=output) as database:
        target = choose(database, batch=batch, endpoint=endpoint)
        changed = pauses.unpause(database, target, who=who())
    if changed:
        wake(broker, database)
    if asked.as_json:
        show_json({"unpaused": changed})
    elif changed:
        what = amount(changed, "endpoint") if endpoint else f"batch {batch!r}"
        say(f"{what} unpaused; `{work_again(asked, output)}` or a worker does the work")
    else:
        say("nothing to unpause: it is not paused")
    return 0
