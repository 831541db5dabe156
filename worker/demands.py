"""What hints ask for: threads that each want one job run, and the loop that claims for all of them.

A thread asks and is held until the job that it got has left its slot, so whoever looks at the
threads sees what runs. The loop takes all that wait at once, claims the best jobs for them with one
statement, and lets go of those for whom there was none. Promised: once it is closed nobody is held.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

#: A hint that finds every slot taken may wait this long for one, in seconds.
PATIENCE_S = 2.0


@dataclass(slots=True, eq=False)
class Demand:
    """One thread's wish to run a job, best the one that its hint names."""

    job_id: int
    asked_at: float
    left: threading.Event = field(default_factory=threading.Event)


class Demands:
    """The demands of a process; `ask` and `close` may be called on any thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin open, with nobody waiting; nobody is told of a demand until `listen`."""
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[Demand] = deque()
        self._held: set[Demand] = set()
        self._closed = False
        self._wake: Callable[[], None] = _nobody

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake`, on the asking thread, whenever somebody has asked."""
        self._wake = wake

    @property
    def waiting(self) -> int:
        """How many have asked and were not taken yet."""
        return len(self._waiting)

    def ask(self, job_id: int) -> None:
        """Ask for a job; return when the one that was got has left its slot, or there is none."""
        demand = Demand(job_id, self._clock())
        with self._lock:
            if self._closed:
                return
            self._waiting.append(demand)
            self._held.add(demand)
        self._wake()
        demand.left.wait()

    def take(self, most: int) -> list[Demand]:
        """Give up to `most` demands that wait, oldest first; those that waited long are let go."""
        now = self._clock()
        with self._lock:
            taken = [self._waiting.popleft() for _ in range(max(0, min(most, len(self._waiting))))]
            late = [one for one in self._waiting if now - one.asked_at > PATIENCE_S]
            for one in late:
                self._waiting.remove(one)
        self._let_go(late)
        return taken

    def meet(self, taken: Iterable[Demand], claimed: Mapping[int, asyncio.Task[object]]) -> None:
        """Hold each taken demand until a claimed job's task has ended; let go of those left over.

        A demand gets the job that its hint named where that was claimed, so names are true where
        they can be.
        """
        open_jobs, strangers = dict(claimed), []
        for demand in taken:
            task = open_jobs.pop(demand.job_id, None)
            if task is None:
                strangers.append(demand)
            else:
                self._hold(demand, task)
        for demand in strangers:
            if open_jobs:
                self._hold(demand, open_jobs.pop(next(iter(open_jobs))))
            else:
                self._let_go([demand])

    def close(self) -> None:
        """Let go of everybody, now and from now on."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            held = list(self._held)
        self._let_go(held)

    def _hold(self, demand: Demand, task: asyncio.Task[object]) -> None:
        task.add_done_callback(lambda _: self._let_go([demand]))

    def _let_go(self, demands: Iterable[Demand]) -> None:
        for demand in demands:
            with self._lock:
                self._held.discard(demand)
            demand.left.set()


def _nobody() -> None:
    """Tell nobody."""
