"""A name that is one job's file and another job's folder: only one of them can be written.

Found once all lines are in: whether `a` may be a file depends on every name below `a/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from tokenspool.database import Database
from tokenspool.inputs.spec import BadLine
from tokenspool.names import quoted
from tokenspool.store.intake import reasons, rows
from tokenspool.store.intake.rows import Existing
from tokenspool.store.intake.turns import MAX_ROWS, reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """A new job that must go, and what is said about its line."""

    job_id: int
    line: BadLine


def clashes(database: Database, *, output_id: int, intake_id: int) -> Iterator[list[Clash]]:
    """Yield the jobs of an intake whose name cannot stand beside the others of its output.

    Each list is found in a read of its own and may be acted upon before the next one is asked for.
    """
    after = ""

    def page(connection: sa.Connection) -> tuple[list[Existing], list[Clash]]:
        nested = rows.nested(connection, output_id=output_id, after=after, limit=MAX_ROWS)
        found = _clashes(connection, nested, output_id=output_id, intake_id=intake_id)
        return nested, list(found)

    while True:
        nested, found = reading(database, page)
        if found:
            yield found
        if len(nested) < MAX_ROWS:
            return
        after = nested[-1].name_key


def _clashes(
    connection: sa.Connection, nested: Sequence[Existing], *, output_id: int, intake_id: int
) -> Iterator[Clash]:
    above = {job.name_key: _folders(job.name_key) for job in nested}
    names = {folder for folders in above.values() for folder in folders}
    files = rows.by_name_key(connection, output_id=output_id, name_keys=list(names))
    gone = set()
    for job in nested if files else ():
        file = next((files[name] for name in above[job.name_key] if name in files), None)
        if file is None or file.id in gone:
            continue
        new, other = (job, file) if job.intake_id == intake_id else (file, job)
        if new.intake_id == intake_id:
            gone.add(new.id)
            yield Clash(job_id=new.id, line=_refused(new, other))


def _folders(name: str) -> list[str]:
    """Give the folders that a name lies in, below the root."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _refused(new: Existing, other: Existing) -> BadLine:
    file, _, line = reasons.line_of(new.extra).rpartition(":")
    reason = (
        f"the output {quoted(new.name)} cannot stand beside {quoted(other.name)} of job"
        f" {quoted(other.custom_id)}: one would be the other's folder; rename one of them"
    )
    return BadLine(file=file, line=int(line), reason=reason)
