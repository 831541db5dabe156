"""A batch as a program sees it: how it stands, its jobs, and what can be done to all of them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Self

from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.jobs import JobView
from tokenspool.model import JobState
from tokenspool.opening import Where, open_database
from tokenspool.store import actions, lookup, pauses, reads
from tokenspool.store.actions import Chosen
from tokenspool.store.intake.turns import reading
from tokenspool.store.reads import Counts

#: How often somebody who waits looks.
LOOK_S = 0.5
_PAGE = 500


class Batch:
    """One batch; close it in the end, or use it in a `with`. `open_batch` makes it."""

    def __init__(self, database: Database, name: str, *, owns: bool = False) -> None:
        """Find the batch; `owns` the database: close it with the batch."""
        self._database = database
        self._owns = owns
        self.name = name
        self.id: int = reading(database, lambda c: reads.batch_id(c, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless the database was handed in open."""
        if self._owns:
            self._database.close()

    def counts(self) -> Counts:
        """Give how many jobs stand where; a few rows, however many jobs there are."""
        return reading(self._database, lambda c: reads.counts(c, batch=self.id))

    def job(self, custom_id: str) -> JobView:
        """Give a job by its name; raises `UsageError` if there is none."""
        line = reading(self._database, lambda c: lookup.in_batch(c, self.id, custom_id))
        if line is None:
            msg = f"no job is called {custom_id!r} in batch {self.name!r}"
            raise UsageError(msg)
        return JobView(line=line, database=self._database)

    def jobs(self, state: JobState | str | None = None) -> Iterator[JobView]:
        """Yield the jobs, or those in one state, in the order they came; a page at a time."""
        only = lookup.Filter(batch_id=self.id, state=_state(state))
        after = 0
        while True:
            page = reading(
                self._database, partial(lookup.jobs, only=only, after=after, limit=_PAGE)
            )
            yield from (JobView(line=line, database=self._database) for line in page)
            if len(page) < _PAGE:
                return
            after = page[-1].id

    def wait(
        self, timeout_s: float | None = None, *, pause: Callable[[float], None] = time.sleep
    ) -> Counts:
        """Return the counts once every job is done, failed or cancelled.

        Raises `TimeoutError` after `timeout_s` seconds. Jobs that a pause holds up are waited for.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while (counts := self.counts()).unfinished:
            if until is not None and time.monotonic() >= until:
                msg = (
                    f"batch {self.name!r} has {counts.unfinished:,} unfinished jobs after"
                    f" {timeout_s:g} s"
                )
                raise TimeoutError(msg)
            pause(LOOK_S)
        return counts

    def resume(self, *, restart: bool = False) -> int:
        """Queue its failed and cancelled jobs again, from their text or anew; give how many."""
        chosen = Chosen(batch_id=self.id)
        return actions.resume(self._database, chosen, who=_who(), restart=restart)

    def cancel(self) -> int:
        """Stop its unfinished jobs; give how many. Their text is kept for `resume`."""
        return actions.cancel(self._database, Chosen(batch_id=self.id), who=_who())

    def pause(self) -> bool:
        """Let none of its jobs begin; tell whether it was not so already. What runs goes on."""
        target = pauses.Target(batch_id=self.id)
        return pauses.pause(self._database, target, who=_who()) > 0

    def unpause(self) -> bool:
        """Let its jobs begin again; tell whether it was paused."""
        target = pauses.Target(batch_id=self.id)
        return pauses.unpause(self._database, target, who=_who()) > 0


def open_batch(name: str, *, db: Where = None) -> Batch:
    """Give a batch that is there; raises `UsageError`, naming those there are, if it is not.

    `db` is a URL, a SQLite file or the folder of a run; without it as the settings say.

    >>> with open_batch("book", db="postgresql://db/spool") as batch:  # doctest: +SKIP
    ...     batch.wait(timeout_s=3600)
    ...     texts = {job.custom_id: job.text() for job in batch.jobs(state="done")}
    """
    database = open_database(db, make=False)
    owns = database is not db
    try:
        return Batch(database, name, owns=owns)
    except BaseException:
        if owns:
            database.close()
        raise


def _state(state: JobState | str | None) -> JobState | None:
    try:
        return None if state is None else JobState(state)
    except ValueError as error:
        msg = f"there is no state {state!r}; there are: {', '.join(JobState)}"
        raise UsageError(msg) from error


def _who() -> str:
    """Name this process for the audit."""
    return f"pid {os.getpid()}@{socket.gethostname()}"
