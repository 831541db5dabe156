"""Uploads: publishes whole texts on threads of their own, several at once.

A store that hangs keeps the threads of its own kind, and nobody else's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.ports import Fault, FinishedText, Store, WholeOutput
from tokenspool.model import Job, Kind
from tokenspool.store.publishing import Published

#: Uploads of one kind of output at once.
AT_ONCE = 8
#: A text up to this length is read from the journal once and kept until it is there.
KEPT_BYTES = 8 * 1024 * 1024

Answer = Callable[[Published | BaseException], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A complete job that is to be published."""

    job: Job
    output: WholeOutput
    #: Edition and bytes of text that are committed.
    committed: tuple[int, int]
    #: Whether somebody still waits for the answer.
    is_wanted: Callable[[], bool]
    answer: Answer


class Uploads:
    """The threads, made when the first output of their kind is published to."""

    def __init__(self, store: Store, *, fault: Fault) -> None:
        """Texts are read from `store`."""
        self._store = store
        self._fault = fault
        self._queues: dict[str, queue.SimpleQueue[Upload | None]] = {}
        self._threads: list[threading.Thread] = []

    def put(self, upload: Upload) -> None:
        """Publish it, after those before it; from the loop alone."""
        kind = upload.output.kind
        if kind not in self._queues:
            self._queues[kind] = queue.SimpleQueue()
            for number in range(AT_ONCE):
                thread = threading.Thread(
                    target=self._work,
                    args=(self._queues[kind],),
                    name=f"{kind}-{number}",
                    daemon=True,
                )
                self._threads.append(thread)
                thread.start()
        self._queues[kind].put(upload)

    def stop(self, until: float) -> bool:
        """End the threads once what is queued is published; False if the time ran out.

        `until` is a moment of the monotonic clock.
        """
        for one in self._queues.values():
            for _ in range(AT_ONCE):
                one.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # --- on the threads ----------------------------------------------------------------------
    def _work(self, uploads: queue.SimpleQueue[Upload | None]) -> None:
        while (upload := uploads.get()) is not None:
            if not upload.is_wanted():
                continue
            try:
                text = self._finished(upload)
                upload.output.publish(text, self._fault)
            except Exception as error:  # noqa: BLE001 - raised again where it is awaited
                _tell(upload, error)
            except BaseException as error:  # noqa: BLE001 - a library's panic is no Exception
                said = f"the library of {upload.output.kind}:// failed ({type(error).__name__})"
                _tell(upload, OSError(errno.EIO, said))
            else:
                _tell(upload, Published(job=upload.job, size=text.size, sha256=text.sha256))

    def _finished(self, upload: Upload) -> FinishedText:
        """Read a text once, for its length and digest; a short one is kept for the upload."""
        job, (edition, stop) = upload.job, upload.committed

        def journal() -> Iterator[bytes]:
            return self._store.text(job.id, edition=edition, kind=Kind.TEXT, start=0, stop=stop)

        kept = bytearray()
        size, digest = 0, hashlib.sha256()
        for piece in journal():
            size += len(piece)
            digest.update(piece)
            if stop <= KEPT_BYTES:
                kept += piece
        whole = bytes(kept)
        return FinishedText(
            job=job,
            born=self._store.born(job.id),
            size=size,
            sha256=digest.digest(),
            read=(lambda: iter((whole,))) if stop <= KEPT_BYTES else journal,
            stands=lambda: self._store.stands(*job.owner_key),
        )


def _tell(upload: Upload, result: Published | BaseException) -> None:
    """Answer, if the loop is still there: a hung store may answer after the end of the run."""
    with contextlib.suppress(RuntimeError):
        upload.answer(result)
