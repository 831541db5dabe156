"""`tokenspool verify`: the outputs against the journal."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import sqlalchemy as sa
import typer

from cli.meter import Meter
from cli.objects import read_object, replace_object
from cli.options import BatchName, Folder, command_app, invocation, same_database, same_jobs
from cli.printing import amount, say, show_json
from pipeline.outputs.folder import FolderOutput
from pipeline.ports import no_fault
from tokenspool.model import JobState, Kind
from tokenspool.roots import is_url
from tokenspool.store import reads
from tokenspool.store.outcomes import Outcome, outcomes
from tokenspool.store.text import DamagedError, read_text

app = command_app()
_READ = 1024 * 1024


@dataclass(slots=True)
class _Found:
    """The numbers of the contract."""

    checked: int = 0
    ok: int = 0
    damaged: int = 0
    missing: int = 0
    repaired: int = 0


@app.command()
def verify(
    ctx: typer.Context,
    *,
    batch: BatchName = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write what is damaged or missing anew.")
    ] = False,
    output: Folder = None,
) -> int:
    """Check each published output's length and SHA-256 against what the journal published.

    An object is read back from its store. Ends with 1 if one is damaged or missing and was not
    repaired.
    """
    asked = invocation(ctx)
    found, mendable = _Found(), 0
    with asked.opened(asked.settings(), folder=output) as database, Meter() as meter:
        with database.read() as connection:
            chosen = None if batch is None else reads.batch_id(connection, batch)
            total = reads.counts(connection, batch=chosen).jobs[JobState.DONE]
        for snapshot, outcome in outcomes(
            database, batch_id=chosen, states=[JobState.DONE], details=False
        ):
            mendable += _check(snapshot, outcome, found, repair=repair)
            meter.show(f"{found.checked:,} of {amount(total, 'file')} checked")
    left = found.damaged + found.missing - found.repaired
    if asked.as_json:
        show_json({name: getattr(found, name) for name in _Found.__slots__})
    else:
        say(
            f"{amount(found.checked, 'file')} checked: {found.ok:,} ok, {found.damaged:,} damaged,"
            f" {found.missing:,} missing, {found.repaired:,} repaired"
        )
        if mendable and not repair:
            again = f"tokenspool verify{same_database(asked, output)}{same_jobs(batch=batch)}"
            say(f"`{again} --repair` writes {amount(mendable, 'file')} anew from the journal")
    return 1 if left else 0


def _check(connection: sa.Connection, outcome: Outcome, found: _Found, *, repair: bool) -> bool:
    """Check one file, and write it anew where that is wanted and needed.

    Tell whether a repair is needed and may be tried.
    """
    found.checked += 1
    problem = _problem(outcome)
    if problem is None:
        found.ok += 1
        return False
    is_missing = problem == "missing"
    found.missing += is_missing
    found.damaged += not is_missing
    failed = hopeless = _hopeless(outcome)
    if repair and not hopeless:
        failed = _repair(connection, outcome)
        found.repaired += failed is None
        problem += "" if failed else ", repaired"
    say(f"{outcome.path}: {problem}" + (f", and cannot be repaired: {failed}" if failed else ""))
    return hopeless is None


def _hopeless(outcome: Outcome) -> str | None:
    """Say why a repair need not be tried; None when it may work."""
    if outcome.is_pruned:
        return "its text was pruned from the journal"
    if is_url(outcome.root):
        return None
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(outcome.path).st_mode):
            return "move the folder away first"
    return None


def _problem(outcome: Outcome) -> str | None:
    """Say what is wrong with a job's file; None when nothing is."""
    if is_url(outcome.root):
        return _object_problem(outcome)
    try:
        file = os.open(outcome.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"damaged, it cannot be read ({error.strerror})"
    try:
        return _difference(file, outcome)
    except OSError as error:
        return f"damaged, it cannot be read ({error.strerror})"
    finally:
        os.close(file)


def _object_problem(outcome: Outcome) -> str | None:
    length, digest = 0, hashlib.sha256()
    try:
        for data in read_object(outcome):
            length += len(data)
            digest.update(data)
    except FileNotFoundError:
        return "missing"
    if length != outcome.length:
        return f"damaged, it has {length:,} bytes instead of {outcome.length:,}"
    return None if digest.digest() == outcome.sha256 else "damaged, its bytes are others"


def _difference(file: int, outcome: Outcome) -> str | None:
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode):
        return "damaged, it is " + ("a folder" if stat.S_ISDIR(about.st_mode) else "not a file")
    if about.st_size != outcome.length:
        return f"damaged, it has {about.st_size:,} bytes instead of {outcome.length:,}"
    return None if _digest(file) == outcome.sha256 else "damaged, its bytes are others"


def _digest(file: int) -> bytes:
    digest = hashlib.sha256()
    while data := os.read(file, _READ):
        digest.update(data)
    return digest.digest()


def _repair(connection: sa.Connection, outcome: Outcome) -> str | None:
    """Write an output anew from the journal; say why not when it cannot be."""
    if is_url(outcome.root):
        return _repair_object(connection, outcome)
    job = outcome.as_job()
    try:
        part = FolderOutput(outcome.root).open(job)
    except OSError as error:
        return str(error.strerror)
    try:
        digest, at = hashlib.sha256(), 0
        for data in _journal(connection, outcome):
            part.write(data, at=at)
            digest.update(data)
            at += len(data)
        if (at, digest.digest()) != (outcome.length, outcome.sha256):
            os.unlink(part.name, dir_fd=part.folder)
            return "the journal does not hold what was published"
        part.publish(no_fault)
    except OSError as error:
        return str(error.strerror)
    except DamagedError as error:
        return str(error)
    finally:
        part.close()
    return None


def _repair_object(connection: sa.Connection, outcome: Outcome) -> str | None:
    try:
        replace_object(connection, outcome, lambda: _journal(connection, outcome))
    except OSError as error:
        return str(error.strerror)
    except DamagedError as error:
        return str(error)
    return None


def _journal(connection: sa.Connection, outcome: Outcome) -> Iterator[bytes]:
    point = outcome.checkpoint
    return read_text(connection, outcome.id, edition=point.edition, kind=Kind.TEXT, stop=point.text)
