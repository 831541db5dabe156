"""Options and checks that several commands share."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import socket
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from cli.invocation import Invocation
from tokenspool.errors import ErrorKind, UsageError
from tokenspool.model import JobState
from tokenspool.roots import is_url

E = TypeVar("E", bound=StrEnum)

_HOLDS_A_PASSWORD = re.compile(r"://[^/@]*:[^/]*@").search


def folder_named(text: str) -> Path:
    """Give the folder that is meant; raises `UsageError` for a name that says nothing."""
    if not text.strip():
        msg = "-o names no folder; `-o .` is the one you stand in"
        raise UsageError(msg)
    return Path(text)


def output_named(text: str) -> str:
    """Give the output that is meant, a folder or a URL; raises `UsageError` like `folder_named`."""
    return text if is_url(text) else str(folder_named(text))


#: The folder of a run; it means `DIR/.tokenspool/spool.db`.
Folder = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="The folder of a run.", parser=folder_named),
]
BatchName = Annotated[str | None, typer.Option("--batch", metavar="NAME", help="Only this batch.")]
ErrorName = Annotated[
    str | None, typer.Option("--error", metavar="KIND", help="Only jobs that failed like this.")
]


def command_app() -> typer.Typer:
    """Make the application of one command's file: plain help, one way of completion for all."""
    return typer.Typer(rich_markup_mode=None, add_completion=False)


def invocation(ctx: typer.Context) -> Invocation:
    """Give what stands everywhere."""
    found = ctx.find_object(Invocation)
    if found is None:  # the group's callback always makes it
        raise TypeError(ctx.command_path)
    return found


def same_database(asked: Invocation, folder: Path | None) -> str:
    """Give the options, with a space before them, that make another command mean this database."""
    if asked.db is not None:
        # What is printed is kept: in logs, and on the screens of others.
        return " --db URL" if _HOLDS_A_PASSWORD(asked.db) else f" --db {shlex.quote(asked.db)}"
    return "" if folder is None else f" -o {shlex.quote(str(folder))}"


def work_again(asked: Invocation, output: Path | None) -> str:
    """Give the command that works off what is queued in this database; DIR if nobody said where."""
    folder = "DIR" if output is None else shlex.quote(str(output))
    return f"tokenspool run -o {folder}{same_database(asked, None)}"


def same_jobs(*, batch: str | None, job: str | None = None) -> str:
    """Give the options, with a space before them, that make another command mean these jobs."""
    given = (("--batch", batch), ("--job", job))
    return "".join(f" {name} {shlex.quote(value)}" for name, value in given if value is not None)


def error_kind(name: str | None) -> ErrorKind | None:
    """Give the error kind that is meant; raises `UsageError` naming those there are."""
    return None if name is None else _one_of(ErrorKind, name, "error kind")


def job_state(name: str | None) -> JobState | None:
    """Give the state that is meant; raises `UsageError` naming those there are."""
    return None if name is None else _one_of(JobState, name, "state")


def _one_of(kinds: type[E], name: str, what: str) -> E:
    try:
        return kinds(name)
    except ValueError as error:
        msg = f"there is no {what} {name!r}; there are: {', '.join(kinds)}"
        raise UsageError(msg) from error


def who() -> str:
    """Name the person for the audit."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}@{socket.gethostname()}"
