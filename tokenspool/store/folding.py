"""Folding: the many small segments of a job that is done become few large ones."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from tokenspool import tables as t
from tokenspool.model import Kind
from tokenspool.store import bulk
from tokenspool.store.folding_bulk import fold_together, sizes

#: A folded segment is at most this long: folding 200 MB into one row took 600 MB of memory.
FOLDED_BYTES = 256 * 1024
#: One fold touches at most this much, so that a beat never waits long for it.
FOLD_STEP_BYTES = 2 * 1024 * 1024
_seg = t.segment.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """A job that is being folded, and how far it is."""

    job_id: int
    edition: int | None = None
    #: The kinds still to do, the first of them from offset `after` on.
    kinds: tuple[Kind, ...] | None = None
    after: int = 0
    #: Bytes of all these kinds, where that is known.
    size: int | None = None


def fold_some(connection: sa.Connection, todo: Sequence[Folding]) -> list[Folding]:
    """Fold as much as one short transaction may; give what is left to do."""
    if bulk.is_bulk(connection):
        short, todo = _short_ones(connection, todo)
        if short:
            places = [(one.job_id, one.edition or 1, k) for one in short for k in one.kinds or ()]
            fold_together(connection, places, most=FOLDED_BYTES)
            return todo
    left: list[Folding] = []
    size = 0
    for one in todo:
        if size >= FOLD_STEP_BYTES:
            left.append(one)
            continue
        edition = one.edition or newest_edition(connection, one.job_id)
        kinds = one.kinds
        if kinds is None:
            kinds = tuple(kinds_to_fold(connection, one.job_id, edition=edition))
        if not kinds:
            continue
        end = fold_step(connection, one.job_id, edition=edition, kind=kinds[0], after=one.after)
        going_on = replace(one, edition=edition, kinds=kinds, after=end or 0, size=None)
        if end is None:
            going_on = replace(going_on, kinds=kinds[1:], after=0)
        else:
            size += end - one.after
        if going_on.kinds:
            left.append(going_on)
    return left


def _short_ones(
    connection: sa.Connection, todo: Sequence[Folding]
) -> tuple[list[Folding], list[Folding]]:
    """Give those that fit into one step together, and the others; who has nothing to do is gone."""
    fresh = [one.job_id for one in todo if one.kinds is None]
    found = sizes(connection, fresh) if fresh else {}
    short: list[Folding] = []
    left: list[Folding] = []
    room = FOLD_STEP_BYTES
    for one in todo:
        known = one
        if one.kinds is None:
            places = found[one.job_id]
            if not places:
                continue
            known = replace(
                one,
                edition=next(iter(places))[1],
                kinds=tuple(Kind(kind) for _, _, kind in places),
                size=sum(places.values()),
            )
        if known.size is not None and known.size <= room:
            room -= known.size
            short.append(known)
        else:
            left.append(known)
    return short, left


def kinds_to_fold(connection: sa.Connection, job_id: int, *, edition: int) -> list[Kind]:
    """Give the kinds of which an edition has more than one segment."""
    rows = connection.execute(
        sa.select(_seg.kind)
        .where(_seg.job_id == job_id, _seg.edition == edition)
        .group_by(_seg.kind)
        .having(sa.func.count() > 1)
    )
    return [Kind(row.kind) for row in rows]


def newest_edition(connection: sa.Connection, job_id: int) -> int:
    """Give the edition that the checkpoint stands in; 1 before the first claim."""
    edition = connection.execute(
        sa.select(t.checkpoint.c.edition).where(t.checkpoint.c.job_id == job_id)
    ).scalar()
    return int(edition or 1)


def fold_step(
    connection: sa.Connection, job_id: int, *, edition: int, kind: Kind, after: int = 0
) -> int | None:
    """Fold the segments from offset `after` on, one bounded step; give where to go on.

    None when the end is reached. At every moment the segments cover the text exactly once, so a
    death between two steps loses nothing and the next fold goes on from what it finds.
    """
    rows = _step_rows(connection, job_id, edition=edition, kind=kind, after=after)
    if not rows:
        return None
    start = rows[0].start
    data = b"".join(row.data for row in rows)
    end: int = start + len(data)
    if len(rows) > 1 and len(rows) > -(-len(data) // FOLDED_BYTES):
        connection.execute(
            t.segment.delete().where(
                _seg.job_id == job_id,
                _seg.edition == edition,
                _seg.kind == kind.value,
                _seg.start >= start,
                _seg.start < end,
            )
        )
        pieces = (
            (at, data[at - start : at - start + FOLDED_BYTES])
            for at in range(start, end, FOLDED_BYTES)
        )
        connection.execute(
            t.segment.insert(),
            [
                {
                    "job_id": job_id,
                    "edition": edition,
                    "kind": kind.value,
                    "start": at,
                    "seq": rows[0].seq,
                    "crc": zlib.crc32(piece),
                    "data": piece,
                }
                for at, piece in pieces
            ],
        )
    return end


def _step_rows(
    connection: sa.Connection, job_id: int, *, edition: int, kind: Kind, after: int
) -> list[sa.Row[int, int, int, bytes]]:
    """Give the next segments that together stay within one fold step.

    They follow on each other and are whole: a new checksum over damage would make it pass for text.
    """
    result = connection.execute(
        sa.select(_seg.start, _seg.seq, _seg.crc, _seg.data)
        .where(
            _seg.job_id == job_id,
            _seg.edition == edition,
            _seg.kind == kind.value,
            _seg.start >= after,
        )
        .order_by(_seg.start),
        execution_options={"stream_results": True},
    )
    rows: list[sa.Row[int, int, int, bytes]] = []
    size = 0
    for row in result:
        if rows and size + len(row.data) > FOLD_STEP_BYTES:
            break
        if (rows and row.start != rows[0].start + size) or zlib.crc32(row.data) != row.crc:
            break
        rows.append(row)
        size += len(row.data)
    result.close()
    return rows
