"""What a run left behind, judged by somebody else: none of the product's code is used here.

Only the tables and the file names of the contract are known. After a SIGKILL the database is read
as a copy, so that looking changes nothing that the next run finds.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("text", "reasoning", "refusal", "tool")
ENDED = frozenset({"done", "failed", "cancelled"})
_PART = re.compile(r"(?P<name>.+)\.e(?P<epoch>\d+)\.part\Z")
#: More problems than this say nothing new.
MOST = 20

JOBS = (
    "SELECT job.*, output.root FROM job JOIN output ON output.id = job.output_id"
    " JOIN intake ON intake.id = job.intake_id WHERE intake.revealed ORDER BY job.id"
)
SEGMENTS = (
    "SELECT job_id, edition, kind, start, crc, data FROM segment"
    " ORDER BY job_id, edition, kind, start"
)

Row = dict[str, Any]
#: Gives the bytes that a job must have, or None where there is nothing to compare with.
Reference = Callable[[Row], bytes | None]
#: Gives what is wrong with a job's text.
Check = Callable[[str], list[str]]


class WrongError(AssertionError):
    """The state is not what was promised; the message lists what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How long each (job, edition, kind) was, and its SHA-256, at one moment."""

    texts: dict[tuple[int, int, str], tuple[int, bytes]]


@dataclass(slots=True)
class State:
    """A database's rows and the files of its outputs, read at one moment."""

    jobs: list[Row]
    checkpoints: dict[int, Row]
    #: Text by (job, edition, kind).
    texts: dict[tuple[int, int, str], bytes]
    counts: list[Row]
    attempts: list[Row]
    seams: list[Row]
    problems: list[str] = field(default_factory=list)

    @property
    def by_state(self) -> Counter[str]:
        """How many jobs stand where."""
        return Counter(job["state"] for job in self.jobs)

    def text(self, job: Row) -> bytes:
        """Give the visible text of a job's newest edition."""
        point = self.checkpoints.get(job["id"])
        return self.texts.get((job["id"], point["edition"] if point else 1, "text"), b"")

    def check(
        self, *, reference: Reference | None = None, content: Check | None = None
    ) -> list[str]:
        """Give all that is wrong, in any state that a run may be in or may have died in."""
        for job in self.jobs:
            self._check_checkpoint(job)
            self._check_output(job)
            self._check_content(job, reference, content)
        self._check_strangers()
        self._check_counts()
        return self.problems

    def _say(self, job: Row, what: str) -> None:
        self.problems.append(f"job {job['id']} ({job['custom_id']}, {job['state']}): {what}")

    def _check_checkpoint(self, job: Row) -> None:
        point = self.checkpoints.get(job["id"])
        mine = {key: data for key, data in self.texts.items() if key[0] == job["id"]}
        if point is None:
            if mine or job["state"] in {"running", "complete", "done"}:
                self._say(job, "it has no checkpoint")
            return
        if point["epoch"] != job["epoch"]:
            self._say(job, f"epoch {job['epoch']}, but {point['epoch']} in its checkpoint")
        for _, edition, kind in mine:
            if edition > point["edition"]:
                self._say(job, f"{kind} of edition {edition}, ahead of its checkpoint")
        for kind in KINDS:
            data = mine.get((job["id"], point["edition"], kind), b"")
            if len(data) != point[kind]:
                self._say(job, f"{len(data)} bytes of {kind}, the checkpoint says {point[kind]}")
        for attempt in (a for a in self.attempts if a["job_id"] == job["id"]):
            if attempt["epoch"] > job["epoch"]:
                self._say(job, f"an attempt of epoch {attempt['epoch']}, which never was")

    def _check_output(self, job: Row) -> None:
        final = Path(job["root"], job["name"])
        if job["state"] not in {"done", "complete"}:
            if final.exists():
                self._say(job, f"{final} is published, but the job is not complete")
            return
        text = self.text(job)
        data = final.read_bytes() if final.exists() else None
        if data is None:
            if job["state"] == "done":
                self._say(job, f"{final} is missing")
        elif data != text:
            self._say(job, f"{final} differs from the journal: {_difference(data, text)}")
        if job["state"] == "done":
            if (job["bytes"], job["sha256"]) != (len(text), hashlib.sha256(text).digest()):
                self._say(job, "its row has another length or digest than its text")
            if job["owner"] is not None:
                self._say(job, f"it is still owned by {job['owner']}")

    def _check_content(self, job: Row, reference: Reference | None, content: Check | None) -> None:
        text = self.text(job)
        try:
            readable = text.decode()
        except UnicodeDecodeError as error:
            self._say(job, f"its text is cut inside a character: {error}")
            return
        expected = reference(job) if reference else None
        if expected is not None:
            whole = job["state"] in {"done", "complete"}
            if (text != expected) if whole else not expected.startswith(text):
                self._say(job, f"its text is wrong: {_difference(text, expected)}")
        for problem in content(readable) if content and text else ():
            self._say(job, problem)

    def _check_strangers(self) -> None:
        """Look for parts of finished jobs and for files that belong to nothing."""
        by_path = {str(Path(job["root"], job["name"])): job for job in self.jobs}
        for root in {job["root"] for job in self.jobs}:
            for path in _files(root):
                part = _PART.match(path)
                job = by_path.get(part["name"] if part else path)
                if job is None:
                    self.problems.append(f"{path} belongs to no job")
                elif part and job["state"] == "done":
                    self._say(job, f"{path} was left behind")
                elif part and int(part["epoch"]) > job["epoch"]:
                    self._say(job, f"{path} is of an epoch that never was")

    def _check_counts(self) -> None:
        states: Counter[tuple[int, str]] = Counter()
        size: Counter[int] = Counter()
        for row in self.counts:
            states[row["batch_id"], row["state"]] += row["jobs"]
            size[row["batch_id"]] += row["bytes"]
        for key in [key for key in states if key[1] == "" or not states[key]]:
            del states[key]
        real = Counter((job["batch_id"], job["state"]) for job in self.jobs)
        if states != real:
            self.problems.append(f"job_count says {dict(states)}, the jobs say {dict(real)}")
        wanted: Counter[int] = Counter()
        for job in self.jobs:
            wanted[job["batch_id"]] += len(self.text(job))
        if any(size[batch] != wanted[batch] for batch in wanted):
            self.problems.append(f"job_count says {dict(size)} bytes, the text is {dict(wanted)}")


def look(database: Path) -> State:
    """Read the state, checking every segment on the way."""
    with _copied(database) as connection:
        problems = [
            f"integrity_check: {row[0]}"
            for row in connection.execute("PRAGMA integrity_check")
            if row[0] != "ok"
        ]
        return State(
            jobs=_rows(connection, JOBS),
            checkpoints={
                row["job_id"]: row for row in _rows(connection, "SELECT * FROM checkpoint")
            },
            texts=joined(connection.execute(SEGMENTS), problems),
            counts=_rows(connection, "SELECT * FROM job_count"),
            attempts=_rows(connection, "SELECT * FROM attempt ORDER BY id"),
            seams=_rows(connection, "SELECT * FROM seam ORDER BY id"),
            problems=problems,
        )


def snapshot(state: State) -> Snapshot:
    """Keep what must still be there later."""
    return Snapshot(
        texts={key: (len(data), hashlib.sha256(data).digest()) for key, data in state.texts.items()}
    )


def changed(before: Snapshot, after: State) -> list[str]:
    """Give which committed text has changed within its edition: there must be none (law 6)."""
    problems = []
    for key, (length, digest) in before.texts.items():
        data = after.texts.get(key, b"")
        if len(data) < length:
            problems.append(f"{key}: {length} bytes were committed, {len(data)} are left")
        elif hashlib.sha256(data[:length]).digest() != digest:
            problems.append(f"{key}: the first {length} bytes have changed")
    return problems


def verify(
    database: Path,
    *,
    drained: bool = True,
    before: Snapshot | None = None,
    reference: Reference | None = None,
    content: Check | None = None,
) -> State:
    """Give the state if nothing is wrong with it. Raises `WrongError`.

    With `drained` every job must be done. `before` is what was committed at an earlier moment.
    """
    return judge(
        look(database), drained=drained, before=before, reference=reference, content=content
    )


def judge(
    state: State,
    *,
    drained: bool = True,
    before: Snapshot | None = None,
    reference: Reference | None = None,
    content: Check | None = None,
) -> State:
    """Give a state back if nothing is wrong with it; see `verify`."""
    problems = state.check(reference=reference, content=content)
    if before is not None:
        problems += changed(before, state)
    if drained and (left := {s: n for s, n in state.by_state.items() if s != "done"}):
        problems.append(f"not all jobs are done: {left}")
    if problems:
        raise WrongError("\n".join([f"{len(problems)} problems", *problems[:MOST]]))
    return state


def joined(
    segments: Iterable[Mapping[str, Any] | sqlite3.Row], problems: list[str]
) -> dict[tuple[int, int, str], bytes]:
    """Join all segments: they must follow one another without a gap or an overlap."""
    pieces: dict[tuple[int, int, str], list[bytes]] = defaultdict(list)
    ends: Counter[tuple[int, int, str]] = Counter()
    for row in segments:
        key, start, data = (row["job_id"], row["edition"], row["kind"]), row["start"], row["data"]
        if start != ends[key]:
            what = "a gap" if start > ends[key] else "an overlap"
            problems.append(f"{key}: {what} at byte {ends[key]}: a segment begins at {start}")
        if zlib.crc32(data) != row["crc"]:
            problems.append(f"{key}: the segment at byte {start} has a wrong checksum")
        if not data:
            problems.append(f"{key}: the segment at byte {start} is empty")
        ends[key] = start + len(data)
        pieces[key].append(data)
    return {key: b"".join(data) for key, data in pieces.items()}


def _rows(connection: sqlite3.Connection, query: str) -> list[Row]:
    return [dict(row) for row in connection.execute(query)]


@contextmanager
def _copied(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of a dead process's database, its write-ahead log included."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "spool.db")
        for suffix in ("", "-wal"):
            source = database.with_name(database.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
        with closing(sqlite3.connect(copy)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection


def _files(root: str) -> Iterator[str]:
    for folder, below, names in os.walk(root):
        # The database's own folder is no output.
        below[:] = [name for name in below if name != ".tokenspool"]
        yield from (str(Path(folder, name)) for name in names)


def _difference(found: bytes, expected: bytes) -> str:
    at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    if at is None:
        return f"{len(found)} bytes instead of {len(expected)}"
    return f"at byte {at}: {found[at : at + 40]!r} instead of {expected[at : at + 40]!r}"
