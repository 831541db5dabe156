"""What two lines or jobs have against each other, in sentences that say what to do about it."""

from __future__ import annotations

import msgspec

from tokenspool.inputs.spec import JobSpec
from tokenspool.model import JobState
from tokenspool.names import quoted
from tokenspool.store.intake.options import JobOptions
from tokenspool.store.intake.rows import Existing

#: What is done keeps the options it was done with.
SETTLED = (JobState.DONE.value, JobState.COMPLETE.value)
_NAMED = 6
_decode = msgspec.json.Decoder().decode


class _Extra(msgspec.Struct):
    """What a job carries for people: never sent."""

    metadata: dict[str, object] | None = None
    #: `FILE:LINE` of the line that made the job.
    line: str = "an earlier input"


def _extra(data: bytes | None) -> _Extra:
    return msgspec.json.decode(data, type=_Extra) if data else _Extra()


def line_of(extra: bytes | None) -> str:
    """Name the line that a job came from."""
    return _extra(extra).line


def differs(spec: JobSpec, *, body: bytes, line: str) -> str:
    """Say what a line has other than the job of its custom_id."""
    ours, theirs = _decode(spec.body), _decode(body)
    keys = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
    # Without any, a number is written in two ways: 1 and 1.0.
    what = ", ".join(keys[:_NAMED] or ["numbers"]) + (" …" if len(keys) > _NAMED else "")
    return (
        f"custom_id {quoted(spec.custom_id)} is already the job of {line}, which asks for something"
        f" else (other {what}): give this line a custom_id of its own"
    )


def elsewhere(spec: JobSpec, *, name: str) -> str:
    """Say that the job of this custom_id writes to another file."""
    return (
        f"custom_id {quoted(spec.custom_id)} is already a job that writes to {quoted(name)}, not to"
        f" {quoted(spec.name)}: use the same name, or give this line a custom_id of its own"
    )


def taken_by(spec: JobSpec, job: Existing) -> str:
    """Say that a line's output belongs to a job that is there."""
    return taken(spec, job.custom_id, job.name, line_of(job.extra))


def taken(spec: JobSpec, custom_id: str, name: str, line: str) -> str:
    """Say that a line's output belongs to another job, on some file system at least."""
    alike = "" if name == spec.name else f" and {quoted(name)} are one file on some disks, which"
    return (
        f"the output {quoted(spec.name)}{alike} belongs to job {quoted(custom_id)} of {line}:"
        ' give this line another custom_id or an "output" of its own'
    )


def overwrites(spec: JobSpec, path: str) -> str:
    """Say that something lies where a line's output would go, and that no job of ours wrote it."""
    return (
        f"the output {quoted(spec.name)} would replace {path}, which is there and of no job of this"
        " database: move it away, or use another -o or --name"
    )


def is_renewed(
    spec: JobSpec, job: Existing, options: JobOptions, *, endpoint_id: int | None
) -> bool:
    """Tell whether an unfinished job has other options than its line now asks for."""
    if job.state in SETTLED:
        return False
    asked = (
        endpoint_id,
        spec.priority,
        options.resume.value,
        spec.max_output_tokens,
        options.max_continuations,
        options.max_attempts,
        options.on_seam,
    )
    has = (
        job.endpoint_id,
        job.priority,
        job.resume,
        job.max_output_tokens,
        job.max_continuations,
        job.max_attempts,
        job.on_seam,
    )
    if asked != has:
        return True
    # Where the line stands may change without a change in what it says about the job.
    return spec.extra != job.extra and _extra(spec.extra).metadata != _extra(job.extra).metadata
