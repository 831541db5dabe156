"""How a run goes on, for the person: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cli.meter import Meter
from cli.printing import duration, may_move, say
from tokenspool.model import ENDED, JobState
from tokenspool.visible import visible
from worker.local import Progress as Now


class RunProgress:
    """Shows what the runner tells it, and each new reason to wait once."""

    def __init__(self) -> None:
        """Begin; nothing is shown yet."""
        self._began = time.monotonic()
        self._ended_before: int | None = None
        self._waiting: tuple[str, ...] = ()
        self._meter = Meter()
        self._bar: Progress | None = None
        if may_move():
            self._bar = Progress(
                TextColumn("{task.fields[jobs]}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[line]}", markup=False),
                console=Console(stderr=True, highlight=False, markup=False),
                transient=True,
                # The runner tells twice a second; drawing takes a millisecond each time.
                refresh_per_second=4,
            )

    def __enter__(self) -> Self:
        """Take the terminal."""
        if self._bar is not None:
            self._bar.start()
            self._row = self._bar.add_task("", jobs="", line="starting")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back, as it was."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, now: Now) -> None:
        """Show how it stands."""
        for reason in now.waiting:
            if reason not in self._waiting:
                self._tell(f"waiting: {reason}")
        self._waiting = now.waiting
        total = sum(now.jobs.values())
        ended = sum(now.jobs[state.value] for state in ENDED)
        jobs = f"{now.jobs[JobState.DONE.value]:,}/{total:,} done"
        line = ", ".join(self._words(now, total=total, ended=ended))
        if self._bar is None:
            self._meter.show(f"{jobs}, {line}")
        else:
            self._bar.update(self._row, total=total, completed=ended, jobs=jobs, line=line)

    def _words(self, now: Now, *, total: int, ended: int) -> list[str]:
        words = [f"{now.streams:,} streams", f"{now.tokens_per_s:,.0f} tokens/s"]
        if failed := now.jobs[JobState.FAILED.value]:
            words.append(f"{failed:,} failed")
        if self._ended_before is None:
            self._ended_before = ended
        # Only what this run has ended itself tells how fast it is.
        since = ended - self._ended_before
        if since and ended < total:
            each = (time.monotonic() - self._began) / since
            words.append(f"{duration(each * (total - ended))} to go")
        return words

    def _tell(self, sentence: str) -> None:
        if self._bar is None:
            say(sentence)
        else:
            self._bar.console.print(visible(sentence))
