"""Check that the reference names what the code has.

Every setting with its default, every error kind with its cost, every command and option: a promise
that nobody compares with the code is out of date within a month.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import typer
from typer.core import TyperGroup

from cli.main import COMMANDS, app
from tokenspool.errors import TRAITS, ErrorKind
from tokenspool.settings import EndpointSettings, Settings

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"


def rows(page: str, *, columns: int) -> dict[str, list[str]]:
    """Give the rows of a page's tables of so many columns, by the code in their first cell."""
    lines = (REFERENCE / page).read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells if len(row) == columns}


def of_settings() -> Iterator[str]:
    """Give what the page on settings gets wrong."""
    page = rows("settings.md", columns=3)
    fields = {name: field for name, field in Settings.model_fields.items() if name != "endpoint"}
    yield from _names("settings.md", page.keys(), fields.keys())
    for name in fields.keys() & page.keys():
        said, real = page[name][0].strip("`"), fields[name].default
        if said != {None: "none"}.get(real, f"{real:g}" if isinstance(real, float) else str(real)):
            yield f"settings.md says {said!r} for {name}; the code says {real!r}"
    profile = rows("settings.md", columns=2)
    yield from _names(
        "settings.md, of an endpoint", profile.keys(), EndpointSettings.model_fields.keys()
    )


def _names(page: str, said: AbstractSet[str], real: AbstractSet[str]) -> Iterator[str]:
    """Give the names that only one of page and code has."""
    yield from (f"{page}: lacks {name}" for name in sorted(real - said))
    yield from (f"{page}: has {name}; the code does not" for name in sorted(said - real))


def of_errors() -> Iterator[str]:
    """Give what the page on error kinds gets wrong."""
    page = rows("errors.md", columns=5)
    yield from _names("errors.md", page.keys(), {kind.value for kind in ErrorKind})
    for kind, trait in TRAITS.items():
        row = page.get(kind.value)
        if row and row[1].startswith("no") == trait.retry:
            yield f"errors.md: {kind.value} is{'' if trait.retry else ' not'} tried again"
        if row and row[2].split()[-1] != trait.cost.value:
            yield f"errors.md: {kind.value} costs {trait.cost.value}"


def of_commands() -> Iterator[str]:
    """Give the commands and options that the page on the command line does not know, or invents."""
    text = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    yield from _names("cli.md", set(re.findall(r"`tokenspool ([a-z]+)", text)), COMMANDS.keys())
    real = {"--help"}
    pending = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        real.update(option for param in command.params for option in param.opts)
        if isinstance(command, TyperGroup):
            names = command.list_commands(typer.Context(command))
            pending += filter(None, (command.get_command(typer.Context(command), n) for n in names))
    said = set(re.findall(r"--[a-z][a-z-]+", text))
    yield from _names("cli.md", said, {option for option in real if option.startswith("--")})


def main() -> int:
    """Print the differences; exit 1 when there are any."""
    found = [*of_settings(), *of_errors(), *of_commands()]
    for problem in found:
        print(problem, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
