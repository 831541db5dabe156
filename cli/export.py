"""`tokenspool export`: a batch's answers in one file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import aiofiles
import typer

from cli.answers import Lines, TextGoneError, batch_line, jsonl_line
from cli.invocation import Invocation
from cli.meter import Meter
from cli.options import command_app, invocation
from cli.printing import ModelText, amount, say, show_json
from tokenspool.database import Database
from tokenspool.errors import TokenspoolError, Unavailable, UsageError
from tokenspool.store import reads
from tokenspool.store.outcomes import outcomes

app = command_app()
_FORMS: dict[str, Lines] = {"jsonl": jsonl_line, "batch": batch_line}
_LATER = ("messages", "parquet", "csv")
#: Written at once: a thread is woken for each write to a file.
_BUFFER = 256 * 1024
#: The place is wrong; everything else is a disk that fails or has no room.
_WRONG_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


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
    if file is not None:
        _check_place(file)
    _must_be_there(asked)
    with asked.opened(asked.settings()) as database, Meter() as meter:
        with database.read() as connection:
            batch_id = reads.batch_id(connection, batch)
            left = reads.counts(connection, batch=batch_id).unfinished
        tally = _Tally()
        pieces = _buffered(_answers(database, batch_id, lines, tally, meter))
        try:
            _out(file, pieces)
        except BrokenPipeError:  # whoever read it has gone, which is no error
            raise
        except OSError as error:
            raise _unwritten(file, error) from error
    if asked.as_json:
        show_json(
            {"exported": tally.exported, "unfinished": left, "gone": tally.gone, "file": str(file)}
        )
    else:
        say(f"{amount(tally.exported, 'answer')} exported" + (f" into {file}" if file else ""))
        if left:
            say(f"{amount(left, 'job')} not ended yet and left out")
    return 1 if tally.gone else 0


def _must_be_there(asked: Invocation) -> None:
    """Raise `UsageError` if there is no database, in the words of a command whose -o is a file."""
    with asked.database(asked.settings(), folder=None) as database:
        path = database.path
    if path is not None and not path.exists():
        msg = f"there is no database {path}; --db DIR names the folder of a run (-o is the answers)"
        raise UsageError(msg)


def _check_place(file: Path) -> None:
    """Raise `UsageError` for what can be known to be no place for a file."""
    try:
        if file.is_dir():
            msg = (
                f"-o {file} is a folder, and here -o is the FILE for the answers;"
                f" --db {shlex.quote(str(file))} names the database of a run"
            )
            raise UsageError(msg)
        if not file.parent.is_dir():
            msg = f"-o {file}: there is no folder {file.parent}; make it, or choose another FILE"
            raise UsageError(msg)
    except OSError as error:
        raise _unwritten(file, error) from error


def _unwritten(file: Path | None, error: OSError) -> TokenspoolError:
    """Say that the answers could not be written, and what to do."""
    name, other = (f"-o {file}", "another FILE") if file else ("standard output", "-o FILE")
    what = f"{name}: the answers cannot be written: {error.strerror}"
    if error.errno in _WRONG_PLACE:
        return UsageError(f"{what}; choose {other}")
    return Unavailable(f"{what}; mend that or choose {other}, and export again")


def _out(file: Path | None, pieces: Iterator[bytes]) -> None:
    if file is None:
        text = ModelText()
        for piece in pieces:
            text.write(piece)
    else:
        is_whole = not file.exists() or file.is_file()
        asyncio.run(_write(file, pieces) if is_whole else _pour(file, pieces))


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
        except OSError as error:
            msg = f"{outcome.path} cannot be read: {error.strerror}; nothing was exported"
            raise Unavailable(msg) from error
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
