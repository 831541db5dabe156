"""The door for programs: enqueue jobs, in a transaction of one's own if need be."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from tokenspool.batches import Batch, open_batch
from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.inputs import BadLine, InputDefaults, JobSpec, read_documents
from tokenspool.model import Resume
from tokenspool.names import DEFAULT_NAME, NameTemplate
from tokenspool.opening import Where, open_database
from tokenspool.roots import SCHEMES, checked_url, is_url
from tokenspool.settings import Settings, load
from tokenspool.store import intake
from tokenspool.store.intake import JobOptions
from tokenspool.store.intake.joined import ids_of
from tokenspool.store.intake.turns import reading

__all__ = ["Batch", "Enqueued", "enqueue", "open_batch", "transaction"]
_SCHEMES = frozenset(f"{scheme}:" for scheme in SCHEMES)
#: Bad jobs that an error names.
_NAMED = 5

Job = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    """What came of an enqueue."""

    batch: str
    #: The jobs' ids, in the order they were given.
    ids: tuple[int, ...]
    #: Jobs that were not there before.
    new: int
    #: Jobs that were there already.
    same: int
    #: Of those, unfinished ones that had other options: they have those of now.
    updated: int = 0


def enqueue(  # noqa: PLR0913 - an option each
    jobs: Iterable[Job],
    *,
    batch: str,
    output: str | Path,
    db: Where = None,
    connection: sa.Connection | None = None,
    base_url: str | None = None,
    model: str | None = None,
    name: str = DEFAULT_NAME,
    priority: int = 0,
    resume: str = "auto",
    on_seam: str = "mark",
    max_output_tokens: int | None = None,
    max_continuations: int | None = None,
    max_attempts: int | None = None,
) -> Enqueued:
    """Take jobs into a batch: all of them, or none.

    A job is a mapping in the form of an input line: `prompt` or `messages` with the other fields of
    the short form, or a line of an OpenAI Batch file. The same `custom_id` with the same content is
    the same job, so a call may be repeated. `output` is the folder of the texts as the workers see
    it, or a URL like `s3://bucket/prefix`. What is not said is taken from the settings.

    With a `connection` (of PostgreSQL through psycopg 3, or one of `transaction`) the jobs are part
    of the transaction that it is in: there when you commit, gone when you roll back.

    Raises `UsageError` naming each bad job by its index, and `Unavailable` when the database cannot
    be used; nothing was taken then, and the connection's transaction may go on.

    >>> enqueue([{"custom_id": "intro", "prompt": "Write about tides."}],
    ...         batch="book", output="out", db="spool.db", model="m")  # doctest: +SKIP
    Enqueued(batch='book', ids=(1,), new=1, same=0, updated=0)
    """
    settings = load(
        base_url=base_url,
        model=model,
        max_continuations=max_continuations,
        max_attempts=max_attempts,
    )
    defaults = InputDefaults(
        batch=batch,
        model=settings.model,
        max_output_tokens=max_output_tokens,
        priority=priority,
        name=NameTemplate(text=name),
        max_line_bytes=settings.max_line_bytes,
    )
    options = _options(settings, resume=resume, on_seam=on_seam)
    root = _root(output)
    lines = _Lines(read_documents(jobs, defaults, warn=_warn))
    if connection is not None:
        if db is not None:
            msg = "give db or connection, not both: a connection has its database"
            raise UsageError(msg)
        taken = _accepted(intake.enqueue_within(connection, batch, root, lines, options))
        return _answer(batch, taken, ids_of(connection, batch, lines.custom_ids))
    with _opened(db) as database:
        taken = _accepted(intake.enqueue(database, batch, root, lines, options))
        return _answer(
            batch, taken, reading(database, lambda c: ids_of(c, batch, lines.custom_ids))
        )


@contextlib.contextmanager
def transaction(*, db: Where = None) -> Iterator[sa.Connection]:
    """Hold a transaction that `enqueue` may be a part of: committed at the end, or undone.

    >>> with transaction(db="spool.db") as connection:  # doctest: +SKIP
    ...     connection.execute(my_orders.insert().values(number=7))
    ...     enqueue(jobs, batch="orders", output="out", connection=connection)
    """
    with _opened(db) as database, database.write() as connection:
        yield connection


class _Lines:
    """The jobs as they are read, and what each is called."""

    def __init__(self, lines: Iterator[JobSpec | BadLine]) -> None:
        self._lines = lines
        self.custom_ids: list[str] = []

    def __iter__(self) -> Iterator[JobSpec | BadLine]:
        for line in self._lines:
            if isinstance(line, JobSpec):
                self.custom_ids.append(line.custom_id)
            yield line


@contextlib.contextmanager
def _opened(db: Where) -> Iterator[Database]:
    database = open_database(db, make=True)
    try:
        yield database
    finally:
        if database is not db:
            database.close()


def _options(settings: Settings, *, resume: str, on_seam: str) -> JobOptions:
    try:
        strategy = Resume(resume)
    except ValueError as error:
        msg = f"there is no strategy {resume!r}; there are: {', '.join(Resume)}"
        raise UsageError(msg) from error
    return JobOptions(
        base_url=settings.base_url,
        api_key_env=settings.key_env(settings.base_url),
        resume=strategy,
        max_continuations=settings.max_continuations,
        max_attempts=settings.max_attempts,
        on_seam=on_seam,
    )


def _root(output: str | Path) -> str:
    """Give the output as it is kept; links are followed, so that a folder has one name."""
    if isinstance(output, str) and is_url(output):
        return checked_url(output)
    if isinstance(output, Path) and output.parts[:1] and output.parts[0] in _SCHEMES:
        msg = f"output {str(output)!r}: a Path cannot hold a URL; give it as a string"
        raise UsageError(msg)
    return os.path.realpath(output)


def _accepted(taken: intake.Enqueued) -> intake.Enqueued:
    """Raise for bad jobs, each by its index."""
    if not taken.invalid:
        return taken
    named = "; ".join(f"jobs[{bad.line - 1}]: {bad.reason}" for bad in taken.errors[:_NAMED])
    more = f"; and {taken.invalid - _NAMED:,} more" if taken.invalid > _NAMED else ""
    msg = f"{taken.invalid:,} of {taken.lines:,} jobs cannot be taken, so none was: {named}{more}"
    raise UsageError(msg)


def _answer(batch: str, taken: intake.Enqueued, ids: tuple[int, ...]) -> Enqueued:
    return Enqueued(
        batch=batch,
        ids=ids,
        new=taken.new,
        same=taken.same + taken.updated,
        updated=taken.updated,
    )


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=2)
