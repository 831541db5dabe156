"""The named fault points, read from the source: the crash suite can forget none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "worker", "tokenspool")


#: Comes by where finished texts are put as objects, and nowhere else.
OBJECTS = ROOT / "pipeline" / "outputs" / "objects.py"


def fault_points() -> list[str]:
    """Give the names that the code hands to its fault parameter on the way into a folder."""
    return sorted({name for path in _sources() if path != OBJECTS for name in _named_in(path)})


def object_points() -> list[str]:
    """Give those on the way into an object store, from the whole text on."""
    return sorted({*_named_in(OBJECTS), "before_done", "after_done"})


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
