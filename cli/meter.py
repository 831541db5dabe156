"""Progress of a command that takes longer than a second: one line, drawn over or now and then."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Self

from cli.printing import may_move, say
from tokenspool.visible import one_line

#: Without a terminal that can be drawn over, a log gets a line this often.
_LOG_S, _DRAW_S = 10.0, 0.2
_CLEAR = "\r\x1b[K"


class Meter:
    """Shows the newest of many lines on stderr; leaves nothing behind on a terminal."""

    def __init__(self) -> None:
        """Begin; the first line is shown a second later, so that quick commands stay quiet."""
        self._moving = may_move()
        self._next = time.monotonic() + 1.0
        self._drawn = False

    def __enter__(self) -> Self:
        """Be used in a `with`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the line away."""
        if self._drawn:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()

    def show(self, line: str) -> None:
        """Show how it stands, unless the last line was only just now."""
        at = time.monotonic()
        if at < self._next:
            return
        self._next = at + (_DRAW_S if self._moving else _LOG_S)
        if not self._moving:
            say(line)
            return
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(_CLEAR + one_line(line, width=width))
        sys.stderr.flush()
        self._drawn = True
