"""The enqueue: one pass over the lines, a bounded number of them in memory, visible all at once.

Over a network the next lines are read while the database takes the last ones; the lines are always
read on the thread that asked, since they may come from anywhere.

New jobs are inserted under an `intake` that nobody else sees; one row's change reveals them. What
dies in the middle leaves hidden rows that never run and that the next enqueue removes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tokenspool import tables as t
from tokenspool.database import Database, DatabaseError, sqlite_url
from tokenspool.errors import TokenspoolError
from tokenspool.inputs.spec import BadLine, JobSpec
from tokenspool.names import check_batch
from tokenspool.store.intake.analysing import analyse
from tokenspool.store.intake.changes import Changes
from tokenspool.store.intake.hidden import Hidden, sweep
from tokenspool.store.intake.judge import Judge, Verdict
from tokenspool.store.intake.lock import alone
from tokenspool.store.intake.options import Enqueued, JobOptions, Listener
from tokenspool.store.intake.place import Place
from tokenspool.store.intake.rows import CollisionError
from tokenspool.store.intake.turns import Turns

#: Bytes of request bodies that are gathered for one transaction.
_CHUNK_BYTES = 4 * 1024 * 1024

Line = JobSpec | BadLine
T = TypeVar("T")


def enqueue(
    database: Database,
    batch: str,
    root: str,
    lines: Iterable[Line],
    options: JobOptions,
    *,
    skip_invalid: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
) -> Enqueued:
    """Take the jobs of `lines` into a batch whose outputs lie below `root`.

    On return with `accepted` all new jobs are there, durably, and unfinished jobs that were there
    already have the options of now. Without it nothing has changed: a line was bad and bad lines
    are not to be skipped, or it was a dry run, which needs no database to be there. An exception
    leaves nothing new visible.
    """
    check_batch(batch)
    listener = listener or Listener()
    with contextlib.ExitStack() as stack:
        changes = stack.enter_context(Changes())
        if dry_run:
            turns = Turns(stack.enter_context(_scratch()), lambda _: None)
            hidden = Hidden(turns, Place(turns.database, batch, root))
            known = [Place(database, batch, root)] if _is_there(database) else []
        else:
            stack.enter_context(alone(database, listener.waiting))
            turns, known = Turns(database, listener.pause), []
            sweep(turns)
            hidden = Hidden(turns, Place(database, batch, root))
        try:
            judge = Judge([hidden.place, *known], options)
            beside = turns.database.kind == "postgresql"
            total = take(lines, hidden, judge, changes, listener, beside=beside)
        except TokenspoolError as error:
            # Whoever reads the lines has found that it must not be; a lost database mends nothing.
            if not isinstance(error, DatabaseError):
                hidden.forget()
            raise
        if dry_run:
            return total
        if total.invalid and not skip_invalid:
            hidden.forget()
            return total
        hidden.reveal()
        analyse(database, new=total.new)
        changes.apply(turns)
        return replace(total, accepted=True)


def take(
    lines: Iterable[Line],
    hidden: Hidden,
    judge: Judge,
    changes: Changes,
    listener: Listener,
    *,
    beside: bool = False,
) -> Enqueued:
    """Read all lines; put new jobs and new options aside, and report the bad ones.

    With `beside` a thread of its own writes the last lines while the next ones are read here.
    """
    if beside:
        hidden.place.trust()

    def settle(chunk: list[Line]) -> tuple[int, Verdict]:
        try:
            return insert(chunk)
        except CollisionError:
            # Two lines of this input, far apart: the earlier one is in the database.
            if not hidden.place.doubt():
                raise
        return insert(chunk)

    def insert(chunk: list[Line]) -> tuple[int, Verdict]:
        fresh, verdict = judge.chunk(chunk, own_intake=hidden.intake_id)
        hidden.add(fresh, judge.options)
        for job_id, spec in verdict.renewed:
            changes.add(job_id, spec, judge.options)
        return len(fresh), verdict

    total = Enqueued()
    chunks = _chunks(lines, hidden.turns)
    # Closed at once when anything fails: nothing is written any more when that is dealt with.
    with contextlib.closing((_beside if beside else _each)(settle, chunks)) as settled:
        for new, verdict in settled:
            for line in verdict.bad:
                listener.report(line)
            total = total.after(
                new=new, same=verdict.same, updated=len(verdict.renewed), bad=verdict.bad
            )
            listener.progress(total)
    for line in hidden.drop_clashes():
        listener.report(line)
        total = total.after(new=-1, bad=[line])
    return total


def _each(
    settle: Callable[[list[Line]], T], chunks: Iterable[list[Line]]
) -> Generator[T, None, None]:
    yield from map(settle, chunks)


def _beside(
    settle: Callable[[list[Line]], T], chunks: Iterable[list[Line]]
) -> Generator[T, None, None]:
    """Settle one chunk after the other on a thread, each while the next one is read here."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="enqueue") as thread:
        under_way: list[Future[T]] = []
        for chunk in chunks:
            settled = [future.result() for future in under_way]
            under_way = [thread.submit(settle, chunk)]
            yield from settled
        yield from (future.result() for future in under_way)


def _is_there(database: Database) -> bool:
    return database.path is None or database.path.exists()


@contextlib.contextmanager
def _scratch() -> Iterator[Database]:
    """Give a database of its own to a dry run: on disk, since an input may not fit into memory."""
    with tempfile.TemporaryDirectory(prefix="tokenspool-") as folder:
        database = Database(sqlite_url(Path(folder) / "dry-run.db"))
        try:
            with database.write() as connection:
                t.metadata.create_all(connection)
            yield database
        finally:
            database.close()


def _chunks(lines: Iterable[Line], turns: Turns) -> Iterator[list[Line]]:
    """Gather lines up to what one transaction should hold."""
    chunk: list[Line] = []
    held = 0
    for line in lines:
        chunk.append(line)
        held += len(line.body) if isinstance(line, JobSpec) else 0
        if len(chunk) >= turns.rows or held >= _CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
