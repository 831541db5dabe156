"""The end of a run in words: where the text is, what failed and what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from cli.printing import amount, size
from tokenspool.errors import TRAITS, ErrorKind
from tokenspool.model import JobState
from tokenspool.store.pauses import Held
from tokenspool.store.reads import Joints, Status


def ending(
    status: Status,
    failures: Mapping[ErrorKind, int],
    joints: Joints,
    *,
    output: str,
    reason: str | None,
) -> Iterator[str]:
    """Yield the lines, the outcome first."""
    counts, place = status.counts, shlex.quote(output)
    done = counts.jobs[JobState.DONE]
    yield (
        f"{done:,} of {amount(counts.total, 'job')} done, {size(counts.bytes)} of text in {output}"
        + (f"; {goodput}" if (goodput := _goodput(status)) else "")
    )
    if joints.verified or joints.unverified:
        yield (
            f"{amount(joints.verified + joints.unverified, 'seam')} where an answer was taken up"
            f" again: {joints.verified:,} verified, {joints.unverified:,} unverified"
        )
    if joints.at_budget:
        yield f"{amount(joints.at_budget, 'job')} ended with the budget spent (finish: length)"
    for kind, jobs in sorted(failures.items()):
        yield f"{jobs:,} failed, {kind}: {TRAITS[kind].action}"
    if failures:
        yield f"to take failed jobs up again: tokenspool resume -o {place} --all-failed, then run"
    if cancelled := counts.jobs[JobState.CANCELLED]:
        yield f"{cancelled:,} cancelled"
    if counts.unfinished:
        yield f"{amount(counts.unfinished, 'job')} not finished: tokenspool run -o {place}"
    if reason:
        yield reason


def held_up(held: Held, *, output: str) -> str:
    """Say which pauses keep a run from going on, and how to take each back."""
    unpause = f"tokenspool unpause -o {shlex.quote(output)}"
    ways = [f"batch {name!r} ({unpause} --batch {shlex.quote(name)})" for name in held.batches]
    ways += [
        f"endpoint {url} {model} ({unpause} --endpoint {shlex.quote(f'{url} {model}')})"
        for url, model in held.endpoints
    ]
    return f"{amount(held.jobs, 'job')} held up by a pause of " + ", ".join(ways)


def _goodput(status: Status) -> str:
    """Say what the kept text cost, where anything was generated twice."""
    counts = status.counts
    if not counts.needed or counts.generated <= counts.needed:
        return ""
    about = "about " if status.estimated else ""
    return f"{about}{counts.generated / counts.needed:.3f} tokens generated for each that is kept"
