"""`tokenspool export`: a batch's answers in one file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import aiofiles
import typer

from cli.answers import Lines, TextGoneError, batch_line, jsonl_line
from cli.meter import Meter
from cli.options import command_app, invocation
from cli.printing import ModelText, amount, say, show_json
from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.store import reads
from tokenspool.store.outcomes import outcomes

app = command_app()
_FORMS: dict[str, Lines] = {"jsonl": jsonl_line, "batch": batch_line}
_LATER = ("messages", "parquet", "csv")
#: Written at once: a thread is woken for each write to a file.
_BUFFER = 256 * 1024


@dataclass(slots=True)
class _Tally:
    """What went into the export."""

    exported: int = 0
    gone: int = 0


@app.command()
def export(
    ctx: typer.Context,
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="The batch's name.")],
    *,
    form: Annotated[str, typer.Option("-f", "--format", help="jsonl or batch.")] = "jsonl",
    file: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Else standard output.")
    ] = None,
) -> int:
    """Write the answers of a batch's ended jobs, in the order of the jobs."""
    asked = invocation(ctx)
    lines = _lines_of(form)
    if asked.as_json and file is None:
        msg = "with --json the answers need a file of their own: -o FILE"
        raise UsageError(msg)
    with asked.opened(asked.settings()) as database, Meter() as meter:
        with database.read() as connection:
            batch_id = reads.batch_id(connection, batch)
            left = reads.counts(connection, batch=batch_id).unfinished
        tally = _Tally()
        pieces = _buffered(_answers(database, batch_id, lines, tally, meter))
        if file is None:
            text = ModelText()
            for piece in pieces:
                text.write(piece)
        else:
            is_whole = not file.exists() or file.is_file()
            asyncio.run(_write(file, pieces) if is_whole else _pour(file, pieces))
    if asked.as_json:
        show_json(
            {"exported": tally.exported, "unfinished": left, "gone": tally.gone, "file": str(file)}
        )
    else:
        say(f"{amount(tally.exported, 'answer')} exported" + (f" into {file}" if file else ""))
        if left:
            say(f"{amount(left, 'job')} not ended yet and left out")
    return 1 if tally.gone else 0


def _lines_of(form: str) -> Lines:
    if form in _FORMS:
        return _FORMS[form]
    later = " follows in a later version;" if form in _LATER else " is no format;"
    msg = f"{form!r}{later} there are: {', '.join(_FORMS)}"
    raise UsageError(msg)


def _answers(
    database: Database, batch_id: int, lines: Lines, tally: _Tally, meter: Meter
) -> Iterator[bytes]:
    for connection, outcome in outcomes(database, batch_id=batch_id):
        try:
            yield from lines(connection, outcome)
        except TextGoneError as gone:
            tally.gone += 1
            say(
                f"job {outcome.id} left out: its text was pruned from the journal, and {gone} is"
                " missing or was changed"
            )
            continue
        tally.exported += 1
        meter.show(f"{amount(tally.exported, 'answer')} exported")


def _buffered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= _BUFFER:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


async def _pour(file: Path, pieces: Iterator[bytes]) -> None:
    """Write into a pipe or a device as it comes."""
    async with aiofiles.open(file, "wb") as target:
        for piece in pieces:
            await target.write(piece)


async def _write(file: Path, pieces: Iterator[bytes]) -> None:
    """Write a file that appears whole or not at all."""
    beside = file.with_name(f".{file.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        async with aiofiles.open(beside, "xb", opener=_private) as target:
            for piece in pieces:
                await target.write(piece)
            await target.flush()
            await asyncio.to_thread(os.fsync, target.fileno())
        await asyncio.to_thread(_publish, beside, file)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _private(path: str, flags: int) -> int:
    # Answers are personal data: nobody else reads them unless somebody allows it.
    return os.open(path, flags, 0o600)


def _publish(beside: Path, file: Path) -> None:
    beside.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
