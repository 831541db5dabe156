"""`tokenspool status`: how many jobs stand where, and how fast it goes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import typer

from cli.documents import status_document
from cli.options import BatchName, Folder, command_app, invocation
from cli.printing import amount, duration, show, show_json, size
from tokenspool.model import JobState
from tokenspool.store import reads

app = command_app()


@app.command()
def status(ctx: typer.Context, *, output: Folder = None, batch: BatchName = None) -> int:
    """How many jobs stand where, and how fast it goes."""
    asked = invocation(ctx)
    with asked.opened(asked.settings(), folder=output) as database, database.read() as connection:
        chosen = None if batch is None else reads.batch_id(connection, batch)
        found = reads.status(connection, batch=chosen)
    if asked.as_json:
        show_json(status_document(found))
    else:
        for line in status_lines(found):
            show(line)
    return 0


def status_lines(found: reads.Status) -> Iterator[str]:
    """Say it in words, the most wanted first."""
    counts = found.counts
    states = (f"{counts.jobs[s]:,} {s}" for s in JobState if counts.jobs[s])
    yield f"jobs       {counts.total:,}: " + (", ".join(states) or "none")
    about = "about " if found.estimated else ""
    yield (
        f"text       {size(counts.bytes)}, {about}{amount(counts.needed, 'token')}"
        f" ({counts.generated:,} generated, {counts.rebilled:,} sent again)"
    )
    if found.tokens_per_s is not None and found.workers:
        eta = "" if found.eta_s is None else f", {duration(found.eta_s)} to go"
        yield f"speed      {found.tokens_per_s:,.0f} tokens/s{eta}"
    if found.oldest_pending_s is not None:
        yield f"waiting    the oldest pending job since {duration(found.oldest_pending_s)}"
    for name in found.paused:
        yield f"paused     batch {name!r}: `tokenspool unpause --batch {shlex.quote(name)}`"
    for worker in found.workers:
        yield (
            f"worker     {worker.id}: {worker.state}, {worker.streams} of"
            f" {amount(worker.slots, 'stream')}, heard of {duration(worker.heartbeat_s)} ago"
        )
    for endpoint in found.endpoints:
        reason = f" ({endpoint.reason})" if endpoint.reason else ""
        limit = f" of {endpoint.limit}" if endpoint.limit is not None else ""
        yield (
            f"endpoint   {endpoint.url} {endpoint.model}: {endpoint.state}{reason},"
            f" {endpoint.in_flight}{limit} in flight"
        )
