"""Following a job's text from outside: the state first, then the text, by (edition, offset).

Both come from one snapshot, the state before the text. So whoever is told that a job has ended has
been told of all its text, and a fold or a new edition in between never hides or doubles a byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.model import ENDED, JobState, Kind
from tokenspool.store.text import read_text

_j, _c = t.job.c, t.checkpoint.c
#: Text handed out from one snapshot; a long-held one keeps SQLite's log from being emptied.
_AT_ONCE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a job's text, as it may leave the process: `edition:offset`."""

    edition: int = 1
    offset: int = 0

    def __str__(self) -> str:
        """Give it as people and programs write it."""
        return f"{self.edition}:{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a look at a job gave."""

    state: JobState
    #: Behind `data`.
    position: Position
    data: bytes = b""
    #: The edition is another than the follower's: what it has is not the text any more.
    reset: bool = False
    #: There was more than fits; look again at once.
    more: bool = False

    @property
    def is_last(self) -> bool:
        """Whether nothing will ever follow by itself."""
        return self.state in ENDED and not self.more


def look(database: Database, job_id: int, *, after: Position, kind: Kind = Kind.TEXT) -> News:
    """Give the state and what follows `after`, at most 1 MiB; all from one snapshot."""
    with database.read() as connection:
        row = connection.execute(
            sa.select(_j.state, _c.edition, _c[kind.value].label("end"))
            .outerjoin(t.checkpoint, _c.job_id == _j.id)
            .where(_j.id == job_id)
        ).one()
        state = JobState(row.state)
        if row.edition is None:
            return News(state=state, position=after)
        reset = row.edition != after.edition
        start = 0 if reset else after.offset
        stop = min(row.end, start + _AT_ONCE)
        data = b"".join(
            read_text(connection, job_id, edition=row.edition, kind=kind, start=start, stop=stop)
        )
    return News(
        state=state,
        position=Position(edition=row.edition, offset=max(start, stop)),
        data=data,
        # Nothing was shown of the old edition: then there is nothing to take back.
        reset=reset and after.offset > 0,
        more=stop < row.end,
    )
