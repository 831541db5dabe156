"""The journal's text over SQLite and PostgreSQL: read in pieces, folded, and checked."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.contract.seeds import Seeds
from tokenspool import tables as t
from tokenspool.database import Database
from tokenspool.model import Kind
from tokenspool.store import folding
from tokenspool.store.folding import Folding, fold_some
from tokenspool.store.text import DamagedError, read_all, read_text, text_length
from worker.sqlstore import WINDOW_BYTES, SqlStore


@pytest.fixture
def seeds(database: Database, tmp_path: Path) -> Seeds:
    """Give an empty database to fill."""
    return Seeds(database=database, root=tmp_path)


def store(
    seeds: Seeds,
    pieces: Sequence[bytes],
    *,
    job_id: int = 1,
    edition: int = 1,
    kind: Kind = Kind.TEXT,
    start: int = 0,
) -> bytes:
    """Put segments into the journal and give their text."""
    rows = []
    for seq, piece in enumerate(pieces):
        rows.append(
            {
                "job_id": job_id,
                "edition": edition,
                "kind": kind.value,
                "start": start,
                "seq": seq,
                "crc": zlib.crc32(piece),
                "data": piece,
            }
        )
        start += len(piece)
    with seeds.database.write() as connection:
        connection.execute(t.segment.insert(), rows)
    return b"".join(pieces)


def text(seeds: Seeds, start: int = 0, stop: int | None = None, *, edition: int = 1) -> bytes:
    """Read job 1's text."""
    with seeds.database.read() as connection:
        return b"".join(read_text(connection, 1, edition=edition, start=start, stop=stop))


def segments(seeds: Seeds, job_id: int = 1) -> list[tuple[int, int]]:
    """Give where a job's segments begin and how long they are."""
    s = t.segment.c
    with seeds.database.read() as connection:
        rows = connection.execute(
            sa.select(s.start, sa.func.length(s.data)).where(s.job_id == job_id).order_by(s.start)
        )
        return [(row[0], row[1]) for row in rows]


def fold(seeds: Seeds, todo: Sequence[Folding]) -> list[Folding]:
    """Fold one step."""
    with seeds.database.write() as connection:
        return fold_some(connection, todo)


# --- reading ------------------------------------------------------------------------------------
def test_every_slice_is_read_from_whatever_segments_cover_it(seeds: Seeds) -> None:
    """Byte by byte, across borders, up to the end or to where it is asked."""
    whole = store(seeds, [b"one ", b"t", b"wo three", b"!", b" and four"])

    for start in range(len(whole) + 1):
        assert text(seeds, start) == whole[start:]
        for stop in range(start, len(whole) + 1):
            assert text(seeds, start, stop) == whole[start:stop]


def test_a_long_text_is_read_in_pieces(seeds: Seeds) -> None:
    """One segment at a time leaves the database: memory does not grow with the text."""
    whole = store(seeds, [bytes([n % 251]) * 1000 for n in range(100)])

    with seeds.database.read() as connection:
        pieces = list(read_text(connection, 1, edition=1))

    assert b"".join(pieces) == whole
    assert max(map(len, pieces)) == 1000


def test_kinds_editions_and_jobs_are_kept_apart(seeds: Seeds) -> None:
    """They share a table, nothing else."""
    store(seeds, [b"text"])
    store(seeds, [b"thought"], kind=Kind.REASONING)
    store(seeds, [b"second"], edition=2)
    store(seeds, [b"another job's"], job_id=2)

    assert text(seeds) == b"text"
    assert text(seeds, edition=2) == b"second"
    with seeds.database.read() as connection:
        assert read_all(connection, 1, edition=1, kind=Kind.REASONING, limit=99) == b"thought"
        assert text_length(connection, 1, edition=1, kind=Kind.REASONING) == 7
        assert text_length(connection, 1, edition=9, kind=Kind.TEXT) == 0


@pytest.mark.parametrize(("limit", "read"), [(3, b"ext"), (4, b"text"), (99, b"text")])
def test_of_a_text_that_is_too_long_the_end_is_given(seeds: Seeds, limit: int, read: bytes) -> None:
    """For a first look at a running job."""
    store(seeds, [b"te", b"xt"])

    with seeds.database.read() as connection:
        assert read_all(connection, 1, edition=1, kind=Kind.TEXT, limit=limit) == read


def test_nothing_is_read_of_a_job_without_text(seeds: Seeds) -> None:
    """Not an error: it has just begun."""
    assert text(seeds) == b""


def test_a_text_shorter_than_its_checkpoint_is_damage(seeds: Seeds) -> None:
    """Who knows how much there must be is not handed less."""
    store(seeds, [b"text"])

    with pytest.raises(DamagedError, match="missing from byte 4"):
        text(seeds, 0, 5)


@pytest.mark.parametrize("gap_at", [0, 3, 20])
def test_a_missing_segment_is_damage(seeds: Seeds, gap_at: int) -> None:
    """What follows it is never joined on."""
    pieces = [bytes([65 + n]) * 2 for n in range(30)]
    store(seeds, pieces)
    with seeds.database.write() as connection:
        connection.execute(t.segment.delete().where(t.segment.c.start == 2 * gap_at))

    for stop in (None, 60):
        with pytest.raises(DamagedError, match=f"missing from byte {2 * gap_at}"):
            text(seeds, 0, stop)


def test_a_changed_byte_is_damage(seeds: Seeds) -> None:
    """The checksum is compared at every read."""
    store(seeds, [b"one ", b"two"])
    with seeds.database.write() as connection:
        two = sa.update(t.segment).where(t.segment.c.start == 4)
        connection.execute(two.values(data=b"tvo"))

    assert text(seeds, 0, 4) == b"one "
    with pytest.raises(DamagedError, match="at byte 4 is damaged"):
        text(seeds)


# --- folding ------------------------------------------------------------------------------------
def test_many_small_segments_become_few(seeds: Seeds) -> None:
    """And the text reads as before, after every step of it."""
    rng = random.Random(7)
    pieces = [rng.randbytes(rng.randint(1, 9000)) for _ in range(1500)]
    whole = store(seeds, pieces)
    todo = [Folding(job_id=1)]
    steps = 0

    while todo:
        before = len(segments(seeds))
        todo = fold(seeds, todo)
        steps += 1
        assert text(seeds) == whole
        assert len(segments(seeds)) <= before

    assert steps > 3  # a beat never waits for all of it
    assert len(segments(seeds)) <= len(whole) // folding.FOLDED_BYTES + steps
    assert max(size for _, size in segments(seeds)) <= folding.FOLDED_BYTES


def test_a_step_is_bounded_over_all_jobs(seeds: Seeds) -> None:
    """Two hundred jobs that end together are not one long transaction."""
    for job_id in range(1, 9):
        store(seeds, [b"x" * 10_000] * 60, job_id=job_id)
    todo = [Folding(job_id=job_id) for job_id in range(1, 9)]

    left = fold(seeds, todo)

    folded = [job_id for job_id in range(1, 9) if len(segments(seeds, job_id)) < 60]
    assert 0 < sum(600_000 for _ in folded) <= 2 * folding.FOLD_STEP_BYTES
    while left:
        left = fold(seeds, left)
    assert all(len(segments(seeds, job_id)) == 3 for job_id in range(1, 9))


def test_a_death_between_two_steps_loses_nothing(seeds: Seeds) -> None:
    """The next fold goes on from whatever it finds."""
    whole = store(seeds, [b"x" * 9000] * 700)
    fold(seeds, [Folding(job_id=1)])
    half_folded = segments(seeds)

    todo = [Folding(job_id=1)]
    while todo:
        todo = fold(seeds, todo)

    assert len(segments(seeds)) < len(half_folded) < 700
    assert text(seeds) == whole


def test_all_kinds_of_the_newest_edition_are_folded(seeds: Seeds) -> None:
    """The older ones wait to be pruned."""
    seeds.enqueue("a")
    seeds.claim()
    with seeds.database.write() as connection:
        connection.execute(sa.update(t.checkpoint).values(edition=2))
    for edition in (1, 2):
        for kind in (Kind.TEXT, Kind.REASONING):
            store(seeds, [b"x"] * 5, edition=edition, kind=kind)

    todo = [Folding(job_id=1)]
    while todo:
        todo = fold(seeds, todo)

    s = t.segment.c
    with seeds.database.read() as connection:
        rows = connection.execute(
            sa.select(s.edition, s.kind, sa.func.count()).group_by(s.edition, s.kind)
        )
        found = {(row[0], row[1]): row[2] for row in rows}
    assert found == {(1, "text"): 5, (1, "reasoning"): 5, (2, "text"): 1, (2, "reasoning"): 1}


def test_folding_again_changes_nothing(seeds: Seeds) -> None:
    """What is folded is left alone."""
    store(seeds, [b"x" * 100] * 50)
    for _ in range(2):
        todo = [Folding(job_id=1)]
        while todo:
            todo = fold(seeds, todo)
    assert segments(seeds) == [(0, 5000)]


@pytest.mark.parametrize("harm", ["byte", "gap"])
def test_damage_is_not_folded_away(seeds: Seeds, harm: str) -> None:
    """A new checksum over damaged text would make it pass for whole."""
    store(seeds, [bytes([65 + n]) * 10 for n in range(20)])
    with seeds.database.write() as connection:
        tenth = t.segment.c.start == 100
        if harm == "byte":
            connection.execute(sa.update(t.segment).where(tenth).values(data=b"KKKKKKKKK?"))
        else:
            connection.execute(t.segment.delete().where(tenth))

    todo = [Folding(job_id=1)]
    for _ in range(20):
        todo = fold(seeds, todo)

    assert todo == []
    with pytest.raises(DamagedError, match="100"):
        text(seeds)


def test_whoever_reads_while_it_is_folded_reads_on(seeds: Seeds) -> None:
    """Every query asks by offset for whatever covers it now."""
    whole = store(seeds, [b"%04d" % n for n in range(500)])
    with seeds.database.read() as connection:
        reading = read_text(connection, 1, edition=1)
        begun = [next(reading) for _ in range(10)]
        todo = [Folding(job_id=1)]
        while todo:
            todo = fold(seeds, todo)

        assert b"".join([*begun, *reading]) == whole


# --- as the engine's store ----------------------------------------------------------------------
def as_store(seeds: Seeds, stop: int) -> Iterator[bytes]:
    """Read job 1's text as publishing does."""
    return SqlStore(seeds.database).text(1, edition=1, kind=Kind.TEXT, stop=stop)


def long_text(seeds: Seeds) -> bytes:
    """Store a text of several windows."""
    piece = random.Random(3).randbytes(100_000)
    return store(seeds, [piece[n:] + piece[:n] for n in range(3 * WINDOW_BYTES // len(piece))])


def test_no_transaction_stands_still_while_a_piece_is_used(seeds: Seeds) -> None:
    """A part of an upload may take a minute; PostgreSQL ends what is idle for so long."""
    whole = long_text(seeds)
    engine = seeds.database.engine
    held: list[object] = []
    sa.event.listen(engine, "begin", held.append)
    for end in ("commit", "rollback"):
        sa.event.listen(engine, end, held.remove)

    read = b""
    for piece in as_store(seeds, len(whole)):
        assert not held
        read += piece

    assert read == whole


def test_a_fold_between_two_windows_changes_no_text(seeds: Seeds) -> None:
    """Each window asks by offset for whatever covers it by then."""
    whole = long_text(seeds)
    reading = as_store(seeds, len(whole))
    begun = next(reading)
    todo = [Folding(job_id=1)]
    while todo:
        todo = fold(seeds, todo)

    assert begun + b"".join(reading) == whole


def test_what_is_forgotten_between_two_windows_is_missed(seeds: Seeds) -> None:
    """Half an answer is never handed out for a whole one."""
    whole = long_text(seeds)
    reading = as_store(seeds, len(whole))
    next(reading)
    with seeds.database.write() as connection:
        connection.execute(t.segment.delete())

    with pytest.raises(DamagedError, match="is missing from byte"):
        list(reading)


def test_a_window_is_bounded(seeds: Seeds) -> None:
    """Memory does not grow with the text."""
    whole = long_text(seeds)
    tracemalloc.start()
    try:
        size = sum(map(len, as_store(seeds, len(whole))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert size == len(whole)
    assert peak < 2.5 * WINDOW_BYTES
