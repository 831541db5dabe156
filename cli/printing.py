"""What commands print: data on stdout, everything else on stderr, model text made visible."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from tokenspool.visible import VisibleBytes, columns, visible


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person looks at this stream."""
    return stream is not None and stream.isatty()


def say(text: str = "") -> None:
    """Tell a person something, on stderr."""
    if sys.stderr is not None:
        print(visible(text), file=sys.stderr)  # noqa: T201


def show(text: str) -> None:
    """Print a line of data made for people."""
    if sys.stdout is not None:
        print(visible(text), flush=True)  # noqa: T201


def show_json(document: object) -> None:
    """Print the one JSON document that a command answers with."""
    if sys.stdout is not None:
        print(json.dumps(document, ensure_ascii=False, allow_nan=False), flush=True)  # noqa: T201


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows: aligned below a heading for a person, with tabs alone for a program."""
    if not is_terminal(sys.stdout):
        for row in rows:
            show("\t".join(" ".join(cell.split()) for cell in row))
        return
    cells = [[visible(" ".join(cell.split())) for cell in row] for row in [head, *rows]]
    widths = [max(columns(row[at]) for row in cells) for at in range(len(head))]
    for row in cells:
        padded = (
            cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)
        )
        show("  ".join(padded).rstrip())


class ModelText:
    """Model text on its way to stdout: raw bytes for a program, visible for a terminal."""

    def __init__(self) -> None:
        """Look once where stdout goes."""
        self._visible = VisibleBytes() if is_terminal(sys.stdout) else None

    def write(self, data: bytes) -> None:
        """Print a piece, cut anywhere, at once."""
        if sys.stdout is None:
            return
        if self._visible is None:
            sys.stdout.buffer.write(data)
        else:
            sys.stdout.write(self._visible.feed(data))
        sys.stdout.flush()

    def end(self) -> None:
        """Print what an unfinished character left, and give the terminal its line back."""
        if self._visible is not None and sys.stdout is not None:
            sys.stdout.write(self._visible.feed(b"", final=True) + "\n")
            sys.stdout.flush()


def amount(number: int, one: str, many: str = "") -> str:
    """Say how many: `1 job`, `2,000 jobs`.

    >>> amount(2000, "job")
    '2,000 jobs'
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: int) -> str:
    """Say how many bytes.

    >>> size(1536)
    '1.5 KiB'
    """
    value, unit = float(number), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:  # noqa: PLR2004
            break
        value, unit = value / 1024, bigger
    return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Say how long.

    >>> duration(3725)
    '1h 2m'
    """
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"


def may_move() -> bool:
    """Tell whether stderr may be drawn over: a person's terminal that is not a dumb one."""
    return is_terminal(sys.stderr) and os.environ.get("TERM", "dumb") != "dumb"
