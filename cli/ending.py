"""The end of a run in words: where the text is, what failed and what to do about it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.printing import amount, size
from tokenspool.database import Database
from tokenspool.errors import TRAITS, ErrorKind
from tokenspool.model import JobState
from tokenspool.store import endpoints, reads
from tokenspool.store.intake.options import checked_url
from tokenspool.store.pauses import Held
from tokenspool.store.reads import Joints, Status

#: Endpoints that a note names.
_NAMED = 3
#: Commands in the actions of error kinds; a person pastes them.
_COMMANDS = re.compile(r"\btokenspool (?:resume|doctor)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where it worked, as the hints say it."""

    #: The folder of the texts.
    output: str
    #: The options that name the database, with a space before them.
    database: str
    #: The command that goes on.
    work: str


def ending(
    status: Status,
    failures: Mapping[ErrorKind, int],
    joints: Joints,
    *,
    place: Place,
    reason: str | None,
) -> Iterator[str]:
    """Yield the lines, the outcome first."""
    counts = status.counts
    done = counts.jobs[JobState.DONE]
    yield (
        f"{done:,} of {amount(counts.total, 'job')} done,"
        f" {size(counts.bytes)} of text in {place.output}"
        + (f"; {goodput}" if (goodput := _goodput(status)) else "")
    )
    if joints.verified or joints.unverified:
        yield (
            f"{amount(joints.verified + joints.unverified, 'seam')} where an answer was taken up"
            f" again: {joints.verified:,} verified, {joints.unverified:,} unverified"
        )
    if joints.at_budget:
        yield f"{amount(joints.at_budget, 'job')} ended with the budget spent (finish: length)"
    if joints.empty:
        yield (
            f"{joints.empty:,} of them without text: refusals or tool calls;"
            f" `tokenspool show JOB{place.database}`"
        )
    for kind, jobs in sorted(failures.items()):
        action = _COMMANDS.sub(lambda found: found[0] + place.database, TRAITS[kind].action)
        yield f"{jobs:,} failed, {kind}: {action}"
    if failures:
        resume = f"tokenspool resume{place.database} --all-failed"
        yield f"to take failed jobs up again: {resume}, then {place.work}"
    if cancelled := counts.jobs[JobState.CANCELLED]:
        yield f"{cancelled:,} cancelled"
    if counts.unfinished:
        yield f"{amount(counts.unfinished, 'job')} not finished: {place.work}"
    if reason:
        yield reason


def held_up(held: Held, *, database: str) -> str:
    """Say which pauses keep a run from going on, and how to take each back."""
    unpause = f"tokenspool unpause{database}"
    ways = [f"batch {name!r} ({unpause} --batch {shlex.quote(name)})" for name in held.batches]
    ways += [
        f"endpoint {url} {model} ({unpause} --endpoint {shlex.quote(f'{url} {model}')})"
        for url, model in held.endpoints
    ]
    return f"{amount(held.jobs, 'job')} held up by a pause of " + ", ".join(ways)


def kept_endpoints(
    database: Database, *, model: str | None, base_url: str | None, output: Path
) -> str:
    """Say that no queued job goes where a run without inputs was told to; empty when one does."""
    if model is None and base_url is None:
        return ""
    url = None if base_url is None else checked_url(base_url)
    with database.read() as connection:
        queued = {(at.url, at.model) for at, _, _ in endpoints.with_work(connection)}
        # After a crash they are still its predecessor's.
        left = reads.status(connection).endpoints
    queued |= {(line.url, line.model) for line in left if line.in_flight}
    if not queued or any(url in {None, at} and model in {None, of} for at, of in queued):
        return ""
    if url is not None and url not in {at for at, _ in queued}:
        where = f"-o {shlex.quote(str(output))} --base-url {shlex.quote(url)}"
        change = f"to move them give the inputs again: tokenspool run INPUT {where}"
    else:
        change = "another model is another request: give the inputs with another -o"
    kept = ", ".join(f"{at} {of}" for at, of in sorted(queued)[:_NAMED])
    return f"note: queued jobs keep their endpoint ({kept}); {change}"


def _goodput(status: Status) -> str:
    """Say what the kept text cost, where anything was generated twice."""
    counts = status.counts
    if not counts.needed or counts.generated <= counts.needed:
        return ""
    about = "about " if status.estimated else ""
    return f"{about}{counts.generated / counts.needed:.3f} tokens generated for each that is kept"
