"""`tokenspool status`: how many jobs stand where, and how fast it goes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace

import typer

from cli.documents import status_document
from cli.options import BatchName, Folder, command_app, invocation, same_database
from cli.printing import amount, duration, show, show_json, size
from tokenspool.database import Database
from tokenspool.model import JobState
from tokenspool.store import reads
from worker.lock import RunnerLock

app = command_app()
#: Of a worker whose lease still runs, and whose process is gone.
DEAD = "dead"


@app.command()
def status(ctx: typer.Context, *, output: Folder = None, batch: BatchName = None) -> int:
    """How many jobs stand where, and how fast it goes."""
    asked = invocation(ctx)
    with asked.opened(asked.settings(), folder=output) as database:
        found = _found(database, batch)
        # A runner holds its lock from before it is in the database until after it has left.
        # Whoever is still there when it was seen free did not leave: it died.
        if found.workers and database.path is not None and RunnerLock(database.path).is_free():
            seen = {worker.id for worker in found.workers}
            found = without_life(_found(database, batch), seen)
    if asked.as_json:
        show_json(status_document(found))
    else:
        for line in status_lines(found, database_options=same_database(asked, output)):
            show(line)
    return 0


def _found(database: Database, batch: str | None) -> reads.Status:
    with database.read() as connection:
        chosen = None if batch is None else reads.batch_id(connection, batch)
        return reads.status(connection, batch=chosen)


def without_life(found: reads.Status, dead: AbstractSet[str]) -> reads.Status:
    """Give how all stands when these workers are dead: whoever is dead has no speed."""
    workers = tuple(
        replace(worker, state=DEAD) if worker.id in dead else worker for worker in found.workers
    )
    return replace(
        found,
        workers=workers,
        tokens_per_s=found.tokens_per_s if any(w.state != DEAD for w in workers) else None,
    )


def status_lines(found: reads.Status, *, database_options: str = "") -> Iterator[str]:
    """Say it in words, the most wanted first.

    `database_options` make the commands that it names mean this database.
    """
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
        unpause = f"tokenspool unpause{database_options} --batch {shlex.quote(name)}"
        yield f"paused     batch {name!r}: `{unpause}`"
    for worker in found.workers:
        if worker.state == DEAD:
            heard = duration(worker.heartbeat_s)
            yield f"worker     {worker.id}: dead, heard of {heard} ago; run it again to go on"
            continue
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
