"""The parent of several workers on one machine: starts them, restarts who dies, lets them drain.

Each child holds the reading end of a pipe as its standard input; its end is the sign to drain, be
it that the parent asks for it or that the parent is dead. A signal would not do: an init system
that signals the whole group would have each child asked twice, and asked twice it leaves at once.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from worker.process import INTERRUPTED

_log = logging.getLogger(__name__)
#: In the environment of a child: it has a parent, at the other end of its standard input.
SUPERVISED = "TOKENSPOOL_SUPERVISED"
LOOK_S = 0.1
#: Waits before a dead child is started again, in seconds: doubled up to the cap, from the
#: beginning for one that lived long.
BACKOFF_S, BACKOFF_CAP_S, LONG_S = 0.5, 30.0, 60.0
#: A child drains within five seconds; whoever does not is killed, which loses nothing committed.
PATIENCE_S = 8.0
USAGE = 2


@dataclass(slots=True)
class _Place:
    """Where one child after the other works."""

    number: int
    child: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    #: When the next child is started.
    due: float = 0.0


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Keeps so many children working until it is stopped."""

    command: Sequence[str]
    processes: int
    environment: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _signals: int = 0
    _places: list[_Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with empty places."""
        self._places = [_Place(number) for number in range(self.processes)]

    def run(self) -> int:
        """Work until a signal comes; give the exit code: 0 drained, 2 a child's usage is wrong."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)
        try:
            code = 0
            while not self._signals and not code:
                code = self.look()
                time.sleep(LOOK_S)
            self._drain()
        finally:
            self._kill()
        return INTERRUPTED if self._signals > 1 else code

    @property
    def children(self) -> list[int]:
        """The process ids of the children that live."""
        return [p.child.pid for p in self._places if p.child is not None]

    def look(self) -> int:
        """Start what is due and see who has died; give 2 when starting again would not help."""
        now = self.clock()
        for place in self._places:
            code = None if place.child is None else place.child.poll()
            if code is not None:
                self._buried(place, code, now)
                if code == USAGE:
                    return USAGE
            if place.child is None and now >= place.due:
                self._start(place, now)
        return 0

    def _start(self, place: _Place, now: float) -> None:
        place.started = now
        place.child = subprocess.Popen(  # noqa: S603 - our own command
            self.command,
            env={**os.environ, **self.environment, SUPERVISED: str(os.getpid())},
            stdin=subprocess.PIPE,
            # What a terminal sends to its group is ours to pass on.
            process_group=0,
        )

    def _buried(self, place: _Place, code: int, now: float) -> None:
        self._let_go(place)
        place.deaths = 1 if now - place.started >= LONG_S else place.deaths + 1
        wait = min(BACKOFF_CAP_S, BACKOFF_S * 2 ** min(place.deaths - 1, 10))
        place.due = now + wait
        _log.warning("worker_ended place=%d code=%d again_in_s=%g", place.number, code, wait)

    def _drain(self) -> None:
        """Let every child drain; a second signal ends the waiting."""
        for place in self._places:
            if place.child is not None and place.child.stdin is not None:
                place.child.stdin.close()
        until = self.clock() + PATIENCE_S
        while self.clock() < until and self._signals < 2:  # noqa: PLR2004 - asked twice
            if all(p.child is None or p.child.poll() is not None for p in self._places):
                return
            time.sleep(LOOK_S)

    def _kill(self) -> None:
        for place in self._places:
            if place.child is not None:
                place.child.kill()
                self._let_go(place)

    @staticmethod
    def _let_go(place: _Place) -> None:
        if place.child is not None:
            if place.child.stdin is not None:
                place.child.stdin.close()
            place.child.wait()
            place.child = None

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1


def drain_with_parent(drain: Callable[[], None]) -> None:
    """Drain when the supervisor asks for it or has died; without a supervisor do nothing."""
    if SUPERVISED not in os.environ:
        return

    def wait() -> None:
        # Nothing is ever written to it: the only thing to read is its end.
        os.read(sys.__stdin__.fileno() if sys.__stdin__ else 0, 1)
        drain()

    threading.Thread(target=wait, name="parent", daemon=True).start()
