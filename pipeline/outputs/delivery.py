"""Delivery: shows on disk what the journal holds, on threads of its own.

A part file is written after the commit, from what was committed. It may lag as far as the disk
makes it: what does not fit the queue is dropped from memory and read back from the journal later,
so a hung disk never stops a beat. An output that fails never touches the stream; it is retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.outputs.uploads import Answer, Upload, Uploads
from pipeline.ports import (
    Fault,
    Output,
    Part,
    PartVanishedError,
    Store,
    WholeOutput,
    no_fault,
)
from tokenspool.database import DatabaseError
from tokenspool.errors import ErrorKind, StreamError, TokenspoolError
from tokenspool.model import Entry, Job, Kind
from tokenspool.store.publishing import Published

_log = logging.getLogger(__name__)
#: Committed text that may wait in memory for the disk; beyond it the journal is read instead.
QUEUE_BYTES = 16 * 1024 * 1024
#: What a piece weighs beside its text: a hung disk sees many small ones.
PIECE_BYTES = 256
#: Waits between tries to publish, in seconds: it doubles up to the cap.
RETRY_S, RETRY_CAP_S = 0.5, 15.0
#: Outputs that share one sync of their folder, at most.
TOGETHER = 64


@dataclass(slots=True)
class _Lane:
    """One claim's way to its output; only its own thread touches the part."""

    job: Job
    output: Output | WholeOutput
    #: Edition and bytes of text that are committed; set on the loop, whatever the disk does.
    committed: tuple[int, int]
    #: A catch-up is queued: it reads from the journal what is committed until then.
    asked: bool = True
    part: Part | None = None
    #: What the part holds.
    edition: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    lane: _Lane
    edition: int
    start: int
    #: None: it did not fit the queue and is read back from the journal.
    data: bytes | None

    @property
    def weight(self) -> int:
        """What it takes up of the queue."""
        return 0 if self.data is None else len(self.data) + PIECE_BYTES


@dataclass(slots=True)
class _Thread:
    """One writer thread and its queue."""

    queue: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue)
    #: Parts that have their names, but whose folder is still to be synced.
    sealed: list[tuple[_Lane, Part, Published, Answer]] = field(default_factory=list)
    thread: threading.Thread | None = None


class Delivery:
    """Writes parts and publishes outputs; `open`, `show`, `publish` are called on the loop."""

    def __init__(
        self,
        store: Store,
        output_for: Callable[[str], Output | WholeOutput],
        *,
        threads: int = 2,
        fault: Fault = no_fault,
    ) -> None:
        """`output_for` gives the output of a root; outputs are kept for the life of this object.

        It is called on the loop, so it must neither block nor raise. `threads` write the parts of
        outputs that show them; whole outputs have threads of their own.
        """
        self._store = store
        self._output_for = output_for
        self._outputs: dict[str, Output | WholeOutput] = {}
        self._uploads = Uploads(store, fault=fault)
        self._fault = fault
        self._lanes: dict[tuple[int, int], _Lane] = {}
        self._queued = 0
        self._guard = threading.Lock()
        #: What publishing is waiting for, for the person: output error text by job.
        self.trouble: dict[int, str] = {}
        self._threads = [_Thread() for _ in range(threads)]
        for number, one in enumerate(self._threads):
            one.thread = threading.Thread(
                target=self._work, args=(one,), name=f"output-{number}", daemon=True
            )
            one.thread.start()

    # --- on the loop -------------------------------------------------------------------------
    def open(self, job: Job) -> None:
        """Begin a claim's part; it is built from the journal up to the claim's checkpoint."""
        checkpoint = job.checkpoint
        output = self._output(job.root)
        lane = _Lane(job=job, output=output, committed=(checkpoint.edition, checkpoint.text))
        self._lanes[job.owner_key] = lane
        # For a whole output a catch-up stays asked for, so that no text is queued for it.
        if not isinstance(output, WholeOutput):
            self._put(job, lambda: self._catch_up(lane))

    def show(self, entries: Sequence[Entry]) -> None:
        """Take what a beat committed."""
        by_thread: dict[int, list[_Piece]] = {}
        for entry in entries:
            lane = self._lanes.get(entry.job.owner_key)
            if lane is None:
                continue
            text = [s for s in entry.segments if s.kind is Kind.TEXT]
            if not text and entry.after.edition == entry.before.edition:
                continue
            data = text[0].data if text else b""
            edition, stop = lane.committed = (entry.after.edition, entry.after.text)
            piece = self._queue(lane, edition, stop - len(data), data)
            if piece is not None:
                by_thread.setdefault(entry.job.id % len(self._threads), []).append(piece)
        for number, pieces in by_thread.items():
            self._threads[number].queue.put(lambda pieces=pieces: self._append(pieces))  # type: ignore[misc]

    def _queue(self, lane: _Lane, edition: int, start: int, data: bytes) -> _Piece | None:
        """Make a piece for the queue; None when a catch-up is queued that will read it."""
        with self._guard:
            if lane.asked:
                return None
            piece = _Piece(lane, edition, start, data)
            if self._queued + piece.weight > QUEUE_BYTES:
                lane.asked, piece = True, _Piece(lane, edition, start, None)
            self._queued += piece.weight
        return piece

    async def publish(self, job: Job) -> Published | None:
        """Publish a complete job, trying again while the output refuses; None when it was lost.

        Raises TokenspoolError when the journal is damaged, or the disk gives back other bytes.
        """
        wait = RETRY_S
        while True:
            try:
                published = await self._sealed(job)
            except PartVanishedError:
                published = None
            except (OSError, DatabaseError) as error:
                said = error.strerror if isinstance(error, OSError) else None
                self.trouble[job.id] = f"{job.root}: {said or error}"
                await asyncio.sleep(wait)
                wait = min(2 * wait, RETRY_CAP_S)
                continue
            self.close(job)
            return published

    def close(self, job: Job) -> None:
        """Let go of a claim's part; the file stays."""
        lane = self._lanes.pop(job.owner_key, None)
        self.trouble.pop(job.id, None)
        if lane is not None and not isinstance(lane.output, WholeOutput):
            self._put(job, lambda: self._release(lane))

    def stop(self, timeout_s: float) -> bool:
        """End the threads once what is queued is written; False if the time ran out."""
        for one in self._threads:
            one.queue.put(None)
        until = time.monotonic() + timeout_s
        for one in self._threads:
            if one.thread is not None:
                one.thread.join(max(0.0, until - time.monotonic()))
        uploaded = self._uploads.stop(until)
        return uploaded and not any(one.thread and one.thread.is_alive() for one in self._threads)

    def _put(self, job: Job, work: Callable[[], None]) -> None:
        self._threads[job.id % len(self._threads)].queue.put(work)

    async def _sealed(self, job: Job) -> Published:
        """Have a job published on a thread of its output."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Published] = loop.create_future()

        def tell(result: Published | BaseException) -> None:
            if future.done():
                return
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

        def answer(result: Published | BaseException) -> None:
            loop.call_soon_threadsafe(tell, result)

        lane = self._lanes.get(job.owner_key)
        if lane is None or not isinstance(lane.output, WholeOutput):
            self._put(job, lambda: self._seal(job, answer))
        else:
            self._uploads.put(
                Upload(
                    job=job,
                    output=lane.output,
                    committed=lane.committed,
                    is_wanted=lambda: not future.done(),
                    answer=answer,
                )
            )
        return await future

    # --- on the threads ----------------------------------------------------------------------
    def _work(self, one: _Thread) -> None:
        while (work := one.queue.get()) is not None:
            self._do(work)
            if one.sealed and (one.queue.empty() or len(one.sealed) >= TOGETHER):
                self._do(lambda: self._sync(one))

    @staticmethod
    def _do(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - logged whole
            # A thread that dies would silently stop every output behind it.
            _log.exception("output_failed")

    def _append(self, pieces: Sequence[_Piece]) -> None:
        with self._guard:
            self._queued -= sum(piece.weight for piece in pieces)
        for piece in pieces:
            lane, part = piece.lane, piece.lane.part
            in_step = part is not None and (lane.edition, lane.written) == (
                piece.edition,
                piece.start,
            )
            if part is None or piece.data is None or not in_step:
                self._catch_up(lane)
                continue
            self._fault("before_part_write")
            with contextlib.suppress(OSError):  # then it is out of step, and caught up later
                part.write(piece.data, at=piece.start)
                lane.written += len(piece.data)
            self._fault("after_part_write")

    def _catch_up(self, lane: _Lane) -> None:
        """Bring the part to what is committed; publishing says what stands in the way."""
        with contextlib.suppress(OSError, TokenspoolError):
            self._fill(lane)

    def _fill(self, lane: _Lane) -> Part:
        """Write from the journal what the part lacks."""
        with self._guard:
            lane.asked = False
        edition, stop = lane.committed
        part = lane.part
        if part is None:
            part = lane.part = self._part(lane)
        elif lane.edition != edition:
            part.truncate()
        if lane.edition != edition:
            lane.edition, lane.written = edition, 0
        if lane.written < stop:
            for data in self._store.text(
                lane.job.id, edition=edition, kind=Kind.TEXT, start=lane.written, stop=stop
            ):
                part.write(data, at=lane.written)
                lane.written += len(data)
        return part

    def _seal(self, job: Job, answer: Answer) -> None:
        """Check a part and give it its name; the answer follows when the folder is synced."""
        lane = self._lanes.get(job.owner_key)
        try:
            if lane is None:
                raise PartVanishedError(job.name)  # noqa: TRY301 - answered like one from the disk
            part = self._fill(lane)
            published = self._check(lane, part)
            self._fault("before_publish")
            self._fence(lane, part)
            part.publish(self._fault)
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            self._forget(lane)
            answer(error)
        else:
            thread = self._threads[job.id % len(self._threads)]
            thread.sealed.append((lane, part, published, answer))

    def _fence(self, lane: _Lane, part: Part) -> None:
        """Stop a lost claim: its late rename would put an old answer over a newer one.

        The part exists by now. A claim made after this look removes it before it publishes its own,
        so that the rename finds nothing.
        """
        if not self._store.stands(*lane.job.owner_key):
            part.remove()
            raise PartVanishedError(lane.job.name)

    def _release(self, lane: _Lane) -> None:
        """Close a lane's part; one that has its name is still needed to sync the folder."""
        thread = self._threads[lane.job.id % len(self._threads)]
        if any(sealed is lane for sealed, *_ in thread.sealed):
            self._sync(thread)
        self._close(lane)

    def _sync(self, one: _Thread) -> None:
        """Make the new names durable, one sync for all of a folder, and answer."""
        sealed, one.sealed = one.sealed, []
        failed: dict[Hashable, Exception | None] = {}
        for lane, part, published, answer in sealed:
            place = part.place
            if place not in failed:
                failed[place] = None
                try:
                    part.sync_place()
                except OSError as error:
                    failed[place] = error
                self._fault("after_folder_sync")
            if failed[place] is not None:
                self._forget(lane)
            answer(failed[place] or published)

    def _check(self, lane: _Lane, part: Part) -> Published:
        """Compare the part with the journal, byte for byte; a part that differs is written anew."""
        job = lane.job
        edition, stop = lane.committed
        size, digest = self._digest(
            self._store.text(job.id, edition=edition, kind=Kind.TEXT, start=0, stop=stop)
        )
        if self._digest(part.read()) != (size, digest):
            # Somebody wrote into our part, or the disk lied. The journal is right.
            _log.warning("part_differs job=%d name=%r", job.id, job.name)
            part.truncate()
            lane.written = 0
            self._fill(lane)
            if self._digest(part.read()) != (size, digest):
                msg = f"{job.name}: the disk does not give back what was written to it"
                raise StreamError(ErrorKind.STORAGE, msg)
        return Published(job=job, size=size, sha256=digest)

    def _forget(self, lane: _Lane | None) -> None:
        """Begin a lane's part anew the next time: after a failed sync its pages may be lost."""
        if lane is not None:
            self._close(lane)

    @staticmethod
    def _part(lane: _Lane) -> Part:
        if isinstance(lane.output, WholeOutput):  # its texts never come here
            raise TypeError(lane.job.root)
        return lane.output.open(lane.job)

    def _output(self, root: str) -> Output | WholeOutput:
        output = self._outputs.get(root)
        if output is None:
            output = self._outputs[root] = self._output_for(root)
        return output

    @staticmethod
    def _digest(pieces: Iterable[bytes]) -> tuple[int, bytes]:
        size, digest = 0, hashlib.sha256()
        for piece in pieces:
            size += len(piece)
            digest.update(piece)
        return size, digest.digest()

    @staticmethod
    def _close(lane: _Lane) -> None:
        if lane.part is not None:
            lane.part.close()
            lane.part, lane.edition, lane.written = None, 0, 0
