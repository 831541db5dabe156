"""Folding on PostgreSQL: the short texts of many jobs at once, a few statements for all of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import sqlalchemy as sa

from tokenspool.store import bulk
from tokenspool.store.beat_rows import SEGMENT

#: One job's text of one kind: job, edition, kind.
Place = tuple[int, int, str]


class Small(NamedTuple):
    """A segment as it was written."""

    job_id: int
    edition: int
    kind: str
    start: int
    seq: int
    crc: int
    data: bytes

    @property
    def place(self) -> Place:
        """What it is a part of."""
        return (self.job_id, self.edition, self.kind)


def sizes(connection: sa.Connection, job_ids: Sequence[int]) -> dict[int, dict[Place, int]]:
    """Give, for each job, the places of its newest edition that have more than one segment.

    With the bytes of each.
    """
    bulk.find_by_index(connection)
    found: dict[int, dict[Place, int]] = {job_id: {} for job_id in job_ids}
    rows = bulk.execute(connection, _SIZES, _JOBS, [(job_id,) for job_id in job_ids])
    for job_id, edition, kind, size in rows:
        found[job_id][job_id, edition, kind] = size
    return found


_JOBS = {"job_id": "int8"}
_SIZES = (
    "SELECT s.job_id, s.edition, s.kind, sum(octet_length(s.data))::int8"  # noqa: S608 - our own
    f" FROM {bulk.unnest(_JOBS)} LEFT JOIN checkpoint AS c ON c.job_id = n.job_id"
    " JOIN segment AS s ON s.job_id = n.job_id AND s.edition = coalesce(c.edition, 1)"
    " GROUP BY s.job_id, s.edition, s.kind HAVING count(*) > 1"
)


def fold_together(connection: sa.Connection, places: Sequence[Place], *, most: int) -> None:
    """Fold all text of these places into segments of at most `most` bytes.

    They are held in memory: the caller bounds how many. Damaged text and what follows it is left
    as it is: a new checksum over it would make it pass for whole.
    """
    bulk.find_by_index(connection)
    rows = [Small(*row) for row in bulk.execute(connection, _READ, _PLACES, places)]
    gone, new = [], []
    for run in _runs(rows):
        data = b"".join(row.data for row in run)
        if len(run) > 1 and len(run) > -(-len(data) // most):
            first = run[0]
            gone.append((*first.place, first.start, first.start + len(data)))
            for at in range(0, len(data), most):
                piece = data[at : at + most]
                new.append((*first.place, first.start + at, first.seq, zlib.crc32(piece), piece))
    bulk.execute(connection, _DELETE, _GONE, gone)
    bulk.copy(connection, "segment", SEGMENT, new)


def _runs(rows: Sequence[Small]) -> Iterator[list[Small]]:
    """Give the segments that follow on each other and are whole."""
    for _, segments in groupby(rows, key=lambda row: row.place):
        run: list[Small] = []
        for row in segments:
            if zlib.crc32(row.data) != row.crc:
                break
            if run and row.start != run[-1].start + len(run[-1].data):
                yield run
                run = []
            run.append(row)
        if run:
            yield run


_PLACES = {"job_id": "int8", "edition": "int8", "kind": "text"}
_SAME = "s.job_id = n.job_id AND s.edition = n.edition AND s.kind = n.kind"
_READ = (
    "SELECT s.job_id, s.edition, s.kind, s.start, s.seq, s.crc, s.data"  # noqa: S608 - our own
    f" FROM {bulk.unnest(_PLACES)} JOIN segment AS s ON {_SAME}"
    " ORDER BY s.job_id, s.edition, s.kind, s.start"
)
_GONE = {**_PLACES, "start": "int8", "stop": "int8"}
_DELETE = (
    f"DELETE FROM segment AS s USING {bulk.unnest(_GONE)}"  # noqa: S608 - names of our own
    f" WHERE {_SAME} AND s.start >= n.start AND s.start < n.stop"
)
