"""The options of a request, which `run` and `enqueue` have alike, and taking inputs in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli.meter import Meter
from cli.printing import amount, say
from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.inputs import BadLine, InputDefaults, JobSpec, read_inputs
from tokenspool.model import Resume
from tokenspool.names import NameTemplate, word_from
from tokenspool.settings import Settings
from tokenspool.store.intake import Enqueued, JobOptions, enqueue
from tokenspool.store.intake.options import Listener

Inputs = Annotated[
    list[str] | None, typer.Argument(metavar="[INPUT]...", help="JSONL or .txt; - is stdin.")
]
Model = Annotated[str | None, typer.Option(help="For lines that name none.")]
BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help="Where requests go.")]
Api = Annotated[str, typer.Option(metavar="API", help="The wire: chat.")]
ResumeBy = Annotated[Resume, typer.Option("--resume", help="How a cut answer is taken up again.")]
MaxOutputTokens = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="A job's budget, over all its answers.")
]
MaxContinuations = Annotated[int | None, typer.Option(min=1, metavar="N")]
MaxAttempts = Annotated[int | None, typer.Option(min=1, metavar="N")]
Patience = Annotated[
    float | None,
    typer.Option(
        "--endpoint-patience", min=0, metavar="S", help="Seconds to wait for a lost endpoint."
    ),
]
OnSeam = Annotated[str, typer.Option(metavar="mark|fail", help="What a doubtful seam means.")]
Name = Annotated[
    str, typer.Option(metavar="TEMPLATE", help="File names, of {custom_id}, {batch}, {line}.")
]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Take the good lines.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the inputs and stop.")]

Lines = Iterator[JobSpec | BadLine]
#: Later versions speak them.
_LATER = frozenset({"responses", "completions"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How the jobs of this command are asked for."""

    options: JobOptions
    defaults: InputDefaults
    skip_invalid: bool
    dry_run: bool


def request(  # noqa: PLR0913 - all are named
    settings: Settings,
    *,
    batch: str,
    api: str,
    resume: Resume,
    max_output_tokens: int | None,
    on_seam: str,
    name: str,
    skip_invalid: bool,
    dry_run: bool,
    priority: int = 0,
) -> Request:
    """Check the options together; raises `UsageError`."""
    if api != "chat":
        later = "follows in a later version" if api in _LATER else "is not one"
        msg = f"--api {api} {later}; there is: chat"
        raise UsageError(msg)
    return Request(
        options=JobOptions(
            base_url=settings.base_url,
            api_key_env=settings.key_env(settings.base_url),
            resume=resume,
            max_continuations=settings.max_continuations,
            max_attempts=settings.max_attempts,
            on_seam=on_seam,
        ),
        defaults=InputDefaults(
            batch=batch,
            model=settings.model,
            max_output_tokens=max_output_tokens,
            priority=priority,
            name=NameTemplate(text=name),
            max_line_bytes=settings.max_line_bytes,
        ),
        skip_invalid=skip_invalid,
        dry_run=dry_run,
    )


def batch_of(folder: Path) -> str:
    """Give the batch of a folder where none is named: `run` and `enqueue` mean the same jobs."""
    return word_from(folder.absolute().name)


def take_in(
    database: Database,
    inputs: Sequence[str],
    asked: Request,
    *,
    root: str,
    check: Callable[[str], None] | None = None,
) -> Enqueued:
    """Enqueue the inputs as one batch, telling the person about each bad line as it is found.

    `check` is called with each model before its first job is taken; what it raises ends the
    enqueue, and nothing of it is there. Raises `UsageError` when lines are bad and must not be.
    """
    lines = read_inputs(inputs, asked.defaults, warn=lambda sentence: say(f"note: {sentence}"))
    if check is not None:
        lines = _checked(lines, check)
    with Meter() as meter:
        taken = enqueue(
            database,
            asked.defaults.batch,
            root,
            lines,
            asked.options,
            skip_invalid=asked.skip_invalid,
            dry_run=asked.dry_run,
            listener=Listener(
                report=lambda line: say(str(line)),
                progress=lambda so_far: meter.show(f"{amount(so_far.lines, 'line')} read"),
                waiting=lambda: say("another enqueue is under way here; waiting for it"),
            ),
        )
    if taken.invalid and not asked.skip_invalid:
        msg = (
            f"{amount(taken.invalid, 'bad line')}, so nothing was enqueued: correct"
            f" {'it' if taken.invalid == 1 else 'them'}, or take the others with --skip-invalid"
        )
        raise UsageError(msg)
    return taken


def _checked(lines: Lines, check: Callable[[str], None]) -> Lines:
    seen: set[str] = set()
    for line in lines:
        if isinstance(line, JobSpec) and line.model not in seen:
            check(line.model)
            seen.add(line.model)
        yield line


def said(taken: Enqueued) -> str:
    """Say what came of the lines."""
    parts = [
        amount(taken.new, "new job")
        if taken.accepted
        else f"{amount(taken.new, 'job')} to enqueue",
        f"{taken.same:,} there already" if taken.same else "",
        f"{taken.updated:,} with new options" if taken.updated else "",
        amount(taken.invalid, "bad line") + " left out" if taken.invalid else "",
    ]
    return f"{amount(taken.lines, 'line')}: " + ", ".join(part for part in parts if part)


def taken_document(batch: str, taken: Enqueued) -> dict[str, object]:
    """Give what came of the lines as JSON."""
    return {
        "batch": batch,
        "new": taken.new,
        "same": taken.same,
        "updated": taken.updated,
        "invalid": taken.invalid,
        "accepted": taken.accepted,
    }
