"""The command line: which commands there are, and how each ends.

Starting up is quick because a command's file is only read when that command is meant.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Protocol

import typer
from typer.core import TyperCommand, TyperGroup

from cli.invocation import Invocation
from tokenspool.errors import TokenspoolError, UsageError
from tokenspool.visible import visible

#: Name -> sentence. The file is `cli/NAME.py`, its Typer application is called `app`.
COMMANDS = {
    "run": "Enqueue INPUT and work until all is done; the same command again resumes.",
    "enqueue": "Enqueue INPUT for a `run` or a worker.",
    "worker": "Work off the jobs of a PostgreSQL until stopped, together with others.",
    "status": "How many jobs stand where, and how fast it goes.",
    "jobs": "List jobs.",
    "show": "All that is on record about one job.",
    "resume": "Take failed and cancelled jobs up again, from their last checkpoint.",
    "pause": "Begin no more jobs of a batch or on an endpoint.",
    "unpause": "Let a paused batch or endpoint go on.",
    "cancel": "Stop jobs; their text is kept.",
    "tail": "The text of a job; with -f while it grows.",
    "export": "Write a batch's answers into one file.",
    "verify": "Check the output files against the journal.",
    "prune": "Let the journal forget the text of jobs that ended long ago.",
    "doctor": "Check database, endpoint, key and machine; say what to do.",
    "sim": "Serve a stand-in for a model, with faults at will.",
    "db": "The database's own version: upgrade, current.",
    "version": "Which tokenspool this is.",
}
#: Accepted before and after the command; each takes a value or not.
_EVERYWHERE = {"--db": True, "--broker": True, "--json": False, "--debug": False}
EPILOG = "Everywhere: --db URL, --broker URL, --json, --debug."
INTERRUPTED, UNUSABLE, USAGE = 3, 4, 2
#: What Typer makes of a KeyboardInterrupt.
_CTRL_C = 130


class _PipeClosedError(Exception):
    """Whoever read our standard output has gone."""


class _Formatter(Protocol):
    """What we use of the help formatter."""

    def section(self, name: str) -> AbstractContextManager[None]: ...

    def write_dl(self, rows: Sequence[tuple[str, str]]) -> None: ...


class _Commands(TyperGroup):
    """A group that reads a command's file when the command is meant."""

    def list_commands(self, _ctx: object) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: object, cmd_name: str) -> TyperCommand | TyperGroup:
        if cmd_name not in COMMANDS:
            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "see tokenspool --help"
            msg = f"there is no command {cmd_name!r}; {hint}"
            raise UsageError(msg)
        module = importlib.import_module(f"cli.{cmd_name}")
        command = typer.main.get_command(module.app)
        if not isinstance(command, TyperCommand | TyperGroup):  # it is what Typer makes
            raise TypeError(cmd_name)
        command.name = cmd_name
        command.help = command.help or COMMANDS[cmd_name]
        command.epilog = EPILOG
        return command

    def format_commands(self, _ctx: object, formatter: _Formatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            result: object = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError as error:
            # Typer would end with 1, which means here that jobs failed.
            raise _PipeClosedError from error
        return result


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,
    add_completion=False,
    help="Spools long language-model streams to storage, and never asks for the same token twice.",
)


@app.callback()
def _everywhere(
    ctx: typer.Context,
    *,
    db: Annotated[str | None, typer.Option(metavar="URL", help="Where jobs are kept.")] = None,
    broker: Annotated[str | None, typer.Option(metavar="URL", help="Celery's broker.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    ctx.obj = Invocation(db=db, broker=broker, as_json=as_json, debug=debug)


def main(argv: Sequence[str]) -> int:
    """Run one command and give its exit code; whatever goes wrong is one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    group = typer.main.get_command(app)
    if not argv:
        group.main(["--help"], prog_name="tokenspool", standalone_mode=False)
        return USAGE
    try:
        code = group.main(hoisted(argv), prog_name="tokenspool", standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - the door: nothing leaves it as a traceback
        if "--debug" in argv:
            traceback.print_exc()
        return _ended(error)
    if code == _CTRL_C:
        _complain("interrupted; what is committed stays, the same command again goes on")
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def hoisted(argv: Sequence[str]) -> list[str]:
    """Move the options that are accepted everywhere to the front."""
    front: list[str] = []
    rest: list[str] = []
    left = iter(argv)
    for word in left:
        if word == "--":
            return [*front, *rest, word, *left]
        name, equals, _ = word.partition("=")
        if name not in _EVERYWHERE:
            rest.append(word)
            continue
        front.append(word)
        if _EVERYWHERE[name] and not equals:
            value = next(left, None)
            if value is None:
                msg = f"{name} needs a URL"
                raise UsageError(msg)
            front.append(value)
    return front + rest


def _ended(error: Exception) -> int:
    """Say why in one sentence and give the exit code."""
    match error:
        case _PipeClosedError():
            # What is still buffered must not be complained about at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        case TokenspoolError():
            _complain(str(error))
            return error.exit_code
        case typer.TyperException():
            ctx = getattr(error, "ctx", None)
            hint = f"; see {ctx.command_path} --help" if ctx else ""
            _complain(error.format_message().rstrip(".") + hint)
            return USAGE
        case typer.Abort():
            return INTERRUPTED
        case OSError():
            name = f"{error.filename}: " if error.filename else ""
            _complain(f"{name}{error.strerror or error}")
            return UNUSABLE
        case _:
            kind = type(error).__name__
            _complain(
                f"this is a fault of tokenspool itself ({kind}: {error}); --debug shows where"
            )
            return UNUSABLE


def _complain(sentence: str) -> None:
    if sys.stderr is not None:
        print(f"tokenspool: {visible(' '.join(sentence.split()))}", file=sys.stderr)  # noqa: T201
