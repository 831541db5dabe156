"""The named fault points, read from the source: the crash suite can forget none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "worker", "tokenspool")


def fault_points() -> list[str]:
    """Give the names that the product's code hands to its fault parameter, in order."""
    return sorted({name for path in _sources() for name in _named_in(path)})


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def _named_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and _called(node.func).lstrip("_") == "fault":
            # A computed name could not be found here, so it must not be used.
            (name,) = node.args
            assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: name the point outright"
            yield str(name.value)


def _called(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""
