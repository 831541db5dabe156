"""An object store as output: `PREFIX/NAME` appears whole when the text is finished.

There are no part files: until then the text is in the journal alone. What keeps a late old claim
from putting its answer over a newer one is the condition of the put: nothing there yet, or exactly
what was looked at. An upload in parts has no such condition in the library; it looks and asks for
its claim once more right before its end.
"""

from __future__ import annotations

import errno
import hashlib
import mimetypes
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.ports import Fault, FinishedText, PartVanishedError
from tokenspool.errors import ErrorKind, StreamError

if TYPE_CHECKING:  # the library is an extra, and takes its time to load
    from pipeline.outputs.bucket import Bucket, Found

#: A longer text is sent in parts.
ONE_PUT_BYTES = 8 * 1024 * 1024
#: Times that something else is found at the key before a try is given up.
_ROUNDS = 4
#: Metadata of our objects, in letters that every store takes: the job, the claim, the text.
_JOB, _EPOCH, _SHA256 = "tokenspooljob", "tokenspoolepoch", "tokenspoolsha256"


class ObjectOutput:
    """Publishes below a prefix of one bucket."""

    def __init__(self, root: str) -> None:
        """Name the root, `SCHEME://BUCKET[/PREFIX]`; nothing is connected to."""
        self.kind, _, place = root.partition("://")
        self._root = root
        self._name, _, self._prefix = place.partition("/")
        self._bucket: Bucket | None = None
        self._guard = threading.Lock()

    # --- publishing --------------------------------------------------------------------------
    def publish(self, text: FinishedText, fault: Fault) -> None:
        """See the port. Never puts over an object that this job did not write."""
        fault("before_upload")
        if text.size <= ONE_PUT_BYTES:
            self._put(text, fault)
        else:
            self._send(text, fault)
        fault("after_upload")

    def replace(self, text: FinishedText) -> None:
        """Put a text over whatever stands there; raises OSError."""
        bucket, key, about = self._opened(), self._key(text.job.name), _about(text)
        if text.size <= ONE_PUT_BYTES:
            bucket.put(key, b"".join(_proven(text)), about, over="any")
        else:
            bucket.send(key, _proven(text), about)

    def read(self, name: str) -> Iterator[bytes]:
        """Yield an object's bytes; raises FileNotFoundError if there is none, and OSError."""
        return self._opened().read(self._key(name))

    def _put(self, text: FinishedText, fault: Fault) -> None:
        bucket, key = self._opened(), self._key(text.job.name)
        from pipeline.outputs.bucket import Conflict, Unconditional  # noqa: PLC0415

        data = b"".join(_proven(text))
        there: Found | None = None
        for _ in range(_ROUNDS):
            _fence(text)
            fault("before_put")
            try:
                bucket.put(key, data, _about(text), over=there or "new")
            except Conflict:
                there = bucket.look(key)
            except Unconditional:
                if not self._is_there(bucket.look(key), text):
                    _fence(text)
                    bucket.put(key, data, _about(text), over="any")
                return
            else:
                return
            if self._is_there(there, text):
                return
        raise OSError(errno.EBUSY, f"{text.job.name} is changed by others again and again")

    def _send(self, text: FinishedText, fault: Fault) -> None:
        bucket, key = self._opened(), self._key(text.job.name)
        if self._is_there(bucket.look(key), text):
            return

        def pieces() -> Iterator[bytes]:
            yield from _proven(text)
            if self._is_there(_beside(lambda: bucket.look(key)), text):
                raise _ThereAlreadyError
            _fence(text)
            fault("before_last_part")

        try:
            bucket.send(key, pieces(), _about(text))
        except _ThereAlreadyError:
            return
        there = bucket.look(key)
        if there is None or there.size != text.size:
            raise OSError(errno.EIO, f"{text.job.name} has another length than what was sent")

    def _is_there(self, there: Found | None, text: FinishedText) -> bool:
        """Tell whether what stands there is this text; raise if it must not be replaced.

        Raises PartVanishedError for the text of a newer claim, and StreamError for an object that
        this job did not write.
        """
        if there is None:
            return False
        about = there.about
        if about.get(_JOB) != _mark(text):
            msg = (
                f"{self._root}/{text.job.name} is there already, and this job did not write it:"
                f" move that object away, then: tokenspool resume --job {text.job.id}"
            )
            raise StreamError(ErrorKind.STORAGE, msg)
        if there.size == text.size and about.get(_SHA256) == text.sha256.hex():
            return True
        epoch = about.get(_EPOCH, "")
        if epoch.isdecimal() and int(epoch) > text.job.epoch:
            raise PartVanishedError(text.job.name)
        return False

    # --- the bucket --------------------------------------------------------------------------
    def _opened(self) -> Bucket:
        with self._guard:
            if self._bucket is None:
                try:
                    from pipeline.outputs.bucket import Bucket  # noqa: PLC0415
                except ImportError as error:
                    msg = (
                        f"outputs at {self.kind}:// need an extra:"
                        " pip install 'tokenspool[s3]', then start again"
                    )
                    raise OSError(errno.ENOPKG, msg) from error
                self._bucket = Bucket(self.kind, self._name)
            return self._bucket

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


def _proven(text: FinishedText) -> Iterator[bytes]:
    """Yield the text; raise at its end unless it was what the journal holds."""
    size, digest = 0, hashlib.sha256()
    for piece in text.read():
        size += len(piece)
        digest.update(piece)
        yield piece
    if (size, digest.digest()) != (text.size, text.sha256):
        raise OSError(errno.EIO, f"{text.job.name} was read differently twice")


def _fence(text: FinishedText) -> None:
    if not text.stands():
        raise PartVanishedError(text.job.name)


def _beside(look: Callable[[], Found | None]) -> Found | None:
    """Look from another thread: the library that waits for our pieces cannot be called from here.

    The thread is nobody's to wait for: a hung store must not keep the process from ending.
    """
    answer: queue.SimpleQueue[Found | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            answer.put(look())
        except BaseException as error:  # noqa: BLE001 - raised again below
            answer.put(error)

    threading.Thread(target=work, name="look", daemon=True).start()
    found = answer.get()
    if isinstance(found, BaseException):
        raise found
    return found


def _mark(text: FinishedText) -> str:
    return f"{text.job.id}-{text.born}"


def _about(text: FinishedText) -> Mapping[str, str]:
    kind = mimetypes.guess_type(text.job.name)[0] or "text/plain"
    charset = "; charset=utf-8" if kind.startswith("text/") else ""
    return {
        "Content-Type": kind + charset,
        _JOB: _mark(text),
        _EPOCH: str(text.job.epoch),
        _SHA256: text.sha256.hex(),
    }


class _ThereAlreadyError(Exception):
    """Another claim put the same text there meanwhile."""
