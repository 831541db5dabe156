"""The text itself: reading what is saved of a job, segment by segment, each checked."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.errors import TokenspoolError
from tokenspool.model import Kind


class DamagedError(TokenspoolError):
    """A segment is missing or its checksum is wrong: the database itself is damaged."""


def read_text(
    connection: sa.Connection,
    job_id: int,
    *,
    edition: int,
    kind: Kind = Kind.TEXT,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[bytes]:
    """Yield the bytes [start, stop) of one kind of a job's edition, checked, one segment each.

    Raises `DamagedError` where a segment is missing or broken. A fold that commits while this reads
    does no harm: every query asks by offset for whatever segment covers it now.
    """
    position = start
    while stop is None or position < stop:
        rows = connection.execute(
            _COVERING, {"job": job_id, "edition": edition, "kind": kind.value, "at": position}
        ).all()
        before = position
        for row in rows:
            if row.start > position or (stop is not None and position >= stop):
                break
            if zlib.crc32(row.data) != row.crc:
                msg = f"job {job_id}: the {kind} segment at byte {row.start} is damaged"
                raise DamagedError(msg)
            data = row.data[position - row.start :]
            if stop is not None:
                data = data[: stop - position]
            position += len(data)
            if data:
                yield data
        if position == before:
            if stop is not None or (rows and rows[-1].start > position):
                msg = f"job {job_id}: {kind} of edition {edition} is missing from byte {position}"
                raise DamagedError(msg)
            return


_seg = t.segment.c
_MINE = sa.and_(
    _seg.job_id == sa.bindparam("job"),
    _seg.edition == sa.bindparam("edition"),
    _seg.kind == sa.bindparam("kind"),
)
#: The segment that covers a position and those behind it, as many as fit 4 MiB when folded.
_COVERING = (
    sa.select(_seg.start, _seg.crc, _seg.data)
    .where(
        _MINE,
        _seg.start
        >= sa.select(sa.func.coalesce(sa.func.max(_seg.start), 0))
        .where(_MINE, _seg.start <= sa.bindparam("at"))
        .scalar_subquery(),
    )
    .order_by(_seg.start)
    .limit(16)
)


def read_all(
    connection: sa.Connection, job_id: int, *, edition: int, kind: Kind, limit: int
) -> bytes:
    """Give one kind of a job's text whole, or only its last `limit` bytes if it is longer."""
    length = text_length(connection, job_id, edition=edition, kind=kind)
    start = max(0, length - limit)
    return b"".join(
        read_text(connection, job_id, edition=edition, kind=kind, start=start, stop=length)
    )


def text_length(connection: sa.Connection, job_id: int, *, edition: int, kind: Kind) -> int:
    """Give how many bytes of a kind the journal holds."""
    end = connection.execute(
        sa.select(_seg.start + sa.func.length(_seg.data))
        .where(_seg.job_id == job_id, _seg.edition == edition, _seg.kind == kind.value)
        .order_by(_seg.start.desc())
        .limit(1)
    ).scalar()
    return int(end or 0)
