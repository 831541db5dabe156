"""`tokenspool run`: enqueue, and work until all is done; the same command again resumes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cli import request as asking
from cli.documents import status_document
from cli.ending import Place, ending, held_up, kept_endpoints
from cli.invocation import Invocation
from cli.logs import log_to_stderr
from cli.options import command_app, folder_named, invocation, same_database, work_again
from cli.preflight import Preflight
from cli.printing import say, show_json
from cli.progress import RunProgress
from cli.roots import checked_root
from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.model import JobState, Resume
from tokenspool.names import DEFAULT_NAME
from tokenspool.settings import Settings
from tokenspool.store import pauses, reads
from worker.local import RunOptions, run_local
from worker.lock import RunnerLock
from worker.process import INTERRUPTED, RunResult
from worker.tuning import tuning
from worker.wiring import allow_open_files

app = command_app()


@app.command()
def run(  # noqa: PLR0913 - an option each
    ctx: typer.Context,
    inputs: asking.Inputs = None,
    *,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="For the texts.", parser=folder_named),
    ],
    streams: Annotated[int | None, typer.Option(min=1, help="Streams at once.")] = None,
    model: asking.Model = None,
    base_url: asking.BaseUrl = None,
    api: asking.Api = "chat",
    resume: asking.ResumeBy = Resume.AUTO,
    max_output_tokens: asking.MaxOutputTokens = None,
    max_continuations: asking.MaxContinuations = None,
    max_attempts: asking.MaxAttempts = None,
    endpoint_patience: asking.Patience = None,
    on_seam: asking.OnSeam = "mark",
    name: asking.Name = DEFAULT_NAME,
    skip_invalid: asking.SkipInvalid = False,
    dry_run: asking.DryRun = False,
) -> int:
    """Enqueue INPUT and work until all is done; without INPUT work off what is queued in DIR."""
    asked = invocation(ctx)
    log_to_stderr(debug=asked.debug)
    settings = asked.settings(
        model=model,
        base_url=base_url,
        streams=streams,
        max_continuations=max_continuations,
        max_attempts=max_attempts,
        endpoint_patience_s=endpoint_patience,
    )
    wanted = asking.request(
        settings,
        batch=asking.batch_of(output),
        api=api,
        resume=resume,
        max_output_tokens=max_output_tokens,
        on_seam=on_seam,
        name=name,
        skip_invalid=skip_invalid,
        dry_run=dry_run,
    )
    if not inputs:
        with asked.opened(settings, folder=output) as database:
            keeping = kept_endpoints(database, model=model, base_url=base_url, output=output)
            return _work(database, asked, settings, output, note=keeping)
    if not dry_run:
        # Before anything is enqueued: a refusal must not leave half of the work behind.
        allow_open_files(settings.streams)
    root = checked_root(output, make=not dry_run)
    with asked.taking(settings, folder=output, dry_run=dry_run) as database:
        if dry_run:
            return _try(database, asked, inputs, wanted, root)
        with _alone(database):
            preflight = Preflight(settings)
            taken = asking.take_in(database, inputs, wanted, root=root, check=preflight.check)
            say(asking.said(taken))
            # Jobs that are all done wait for nobody.
            if preflight.silence and _unfinished(database):
                say(f"note: {preflight.silence}; the jobs wait for it")
            return _end(asked, database, output, _run(database, settings))


def _try(
    database: Database,
    asked: Invocation,
    inputs: list[str],
    wanted: asking.Request,
    root: str,
) -> int:
    taken = asking.take_in(database, inputs, wanted, root=root)
    if asked.as_json:
        show_json(asking.taken_document(wanted.defaults.batch, taken))
    else:
        say(asking.said(taken))
    return 0


def _work(
    database: Database, asked: Invocation, settings: Settings, output: Path, *, note: str
) -> int:
    with _alone(database):
        if note:
            say(note)
        return _end(asked, database, output, _run(database, settings))


def _unfinished(database: Database) -> int:
    with database.read() as connection:
        return reads.counts(connection).unfinished


@contextlib.contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Be the only runner of this database, from before the first job is enqueued."""
    if database.path is None:
        msg = "run works on a SQLite file; for PostgreSQL enqueue, and start workers"
        raise UsageError(msg)
    lock = RunnerLock(database.path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _run(database: Database, settings: Settings) -> RunResult:
    with RunProgress() as progress:
        return run_local(
            RunOptions(
                tuning=tuning(database, settings),
                endpoint_patience_s=settings.endpoint_patience_s,
                max_crashes=settings.max_crashes,
                on_progress=progress.show,
            )
        )


def _end(asked: Invocation, database: Database, output: Path, result: RunResult) -> int:
    """Say how it ended, and give the exit code of the contract."""
    with database.read() as connection:
        status = reads.status(connection)
        failures = reads.failures(connection)
        joints = reads.joints(connection)
        held = pauses.held(connection)
    again = same_database(asked, output)
    if held.jobs and not result.exit_code:
        reason = held_up(held, database=again)
        result = RunResult(exit_code=INTERRUPTED, reason=reason)
    if asked.as_json:
        show_json(status_document(status))
    there = Place(output=str(output), database=again, work=work_again(asked, output))
    for line in ending(status, failures, joints, place=there, reason=result.reason):
        say(line)
    failed = status.counts.jobs[JobState.FAILED]
    return result.exit_code or (1 if failed else 0)
