"""`tokenspool enqueue`: take inputs in for a `run` or a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import request as asking
from cli.invocation import SPOOL
from cli.options import command_app, invocation, output_named
from cli.printing import say, show_json
from cli.roots import checked_output, checked_root
from cli.waking import broker_of, wake
from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.inputs.reading import stem_of
from tokenspool.inputs.spec import MAX_PRIORITY
from tokenspool.model import Resume
from tokenspool.names import DEFAULT_NAME
from tokenspool.roots import is_url

app = command_app()


@app.command()
def enqueue(  # noqa: PLR0913 - an option each
    ctx: typer.Context,
    inputs: asking.Inputs = None,
    *,
    batch: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Else called after -o; without it, after INPUT."),
    ] = None,
    priority: Annotated[
        int, typer.Option(min=-MAX_PRIORITY, max=MAX_PRIORITY, help="Higher runs first.")
    ] = 0,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR|URL",
            help="Where the texts go: a folder, or s3://BUCKET/PREFIX.",
            parser=output_named,
        ),
    ] = None,
    model: asking.Model = None,
    base_url: asking.BaseUrl = None,
    api: asking.Api = "chat",
    resume: asking.ResumeBy = Resume.AUTO,
    max_output_tokens: asking.MaxOutputTokens = None,
    max_continuations: asking.MaxContinuations = None,
    max_attempts: asking.MaxAttempts = None,
    on_seam: asking.OnSeam = "mark",
    name: asking.Name = DEFAULT_NAME,
    skip_invalid: asking.SkipInvalid = False,
    dry_run: asking.DryRun = False,
) -> int:
    """Enqueue INPUT: all of it, or nothing if a line is bad."""
    asked = invocation(ctx)
    settings = asked.settings(
        model=model,
        base_url=base_url,
        max_continuations=max_continuations,
        max_attempts=max_attempts,
    )
    if not inputs:
        msg = "say what to enqueue: tokenspool enqueue INPUT…; - is standard input"
        raise UsageError(msg)
    broker = broker_of(settings)
    wanted = asking.request(
        settings,
        batch=batch or (_stem(inputs) if output is None else asking.batch_of(Path(output))),
        api=api,
        resume=resume,
        max_output_tokens=max_output_tokens,
        on_seam=on_seam,
        name=name,
        skip_invalid=skip_invalid,
        dry_run=dry_run,
        priority=priority,
    )
    # Before the database is made: with -o it may be made in there.
    root = None if output is None else checked_output(output, make=not dry_run)
    folder = None if output is None or is_url(output) else Path(output)
    with asked.taking(settings, folder=folder, last=True, dry_run=dry_run) as database:
        root = root or checked_root(_beside(database), make=not dry_run)
        taken = asking.take_in(database, inputs, wanted, root=root)
    if asked.as_json:
        show_json(asking.taken_document(wanted.defaults.batch, taken))
    else:
        say(f"batch {wanted.defaults.batch!r}: {asking.said(taken)}")
    if not dry_run:
        wake(broker, database)
    return 0


def _stem(inputs: list[str]) -> str:
    """Name the batch after its input; several inputs are one batch only if a person says so."""
    stems = {stem_of(path) for path in inputs}
    if len(stems) > 1:
        msg = "several inputs are one batch, and it needs a name: --batch NAME"
        raise UsageError(msg)
    return stems.pop()


def _beside(database: Database) -> Path:
    """Give the folder whose database this is."""
    if database.path is not None and database.path.parent.name == SPOOL.parent.name:
        return database.path.parent.parent
    msg = "say where the texts go: -o DIR"
    raise UsageError(msg)
