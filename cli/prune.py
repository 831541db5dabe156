"""`tokenspool prune`: the journal lets go of old text."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated

import typer

from cli.meter import Meter
from cli.options import BatchName, Folder, command_app, invocation
from cli.printing import amount, say, show_json, size
from pipeline.outputs.folder import part_name
from tokenspool.errors import UsageError
from tokenspool.roots import is_url
from tokenspool.store import reads
from tokenspool.store.prune import Leftover, Pruned
from tokenspool.store.prune import prune as prune_text

app = command_app()
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
#: A part of an older claim than this was removed when a newer one began.
_NEAR_EPOCHS = 64


@app.command()
def prune(
    ctx: typer.Context,
    *,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="30d, 12h: ended before that.")
    ],
    batch: BatchName = None,
    output: Folder = None,
) -> int:
    """Delete the text of jobs that ended long ago from the journal; never an output file.

    A failed or cancelled job loses its part file too and would begin from zero when resumed.
    """
    asked = invocation(ctx)
    age = _seconds(older_than)
    parts = 0

    def leftover(job: Leftover) -> None:
        nonlocal parts
        parts += _remove_parts(job)

    def tell(so_far: Pruned) -> None:
        meter.show(f"{amount(so_far.jobs, 'job')} pruned, {size(so_far.bytes)}")

    with asked.opened(asked.settings(), folder=output) as database, Meter() as meter:
        with database.read() as connection:
            chosen = None if batch is None else reads.batch_id(connection, batch)
        pruned = prune_text(
            database, older_than_s=age, batch_id=chosen, leftover=leftover, progress=tell
        )
    if asked.as_json:
        show_json({"jobs": pruned.jobs, "bytes": pruned.bytes, "parts": parts})
    else:
        say(
            f"{amount(pruned.jobs, 'job')} pruned: {size(pruned.bytes)} free for new text inside"
            f" the database, {amount(parts, 'part file')} removed"
        )
    return 0


def _seconds(age: str) -> float:
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smhdw])", age)
    if found is None:
        msg = f"--older-than {age!r} is not an age; for example 30d, 12h or 90m"
        raise UsageError(msg)
    return float(found[1]) * _UNITS[found[2]]


def _remove_parts(job: Leftover) -> int:
    """Remove the part files of a job's old claims; give how many there were."""
    if is_url(job.root):
        return 0
    removed = 0
    with contextlib.suppress(OSError), _folder_of(job) as (folder, name):
        for epoch in range(max(1, job.epoch - _NEAR_EPOCHS), job.epoch + 1):
            with contextlib.suppress(OSError):
                os.unlink(part_name(name, epoch), dir_fd=folder)
                removed += 1
    return removed


@contextlib.contextmanager
def _folder_of(job: Leftover) -> Iterator[tuple[int, str]]:
    """Open the folder of a job's output; a link below the root would lead out of it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    *below, name = PurePosixPath(job.name).parts
    folder = os.open(job.root, flags)
    try:
        for part in below:
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder, name
    finally:
        os.close(folder)
