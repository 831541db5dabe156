"""Joining a new answer to the text that is saved: what to swallow, and when to refuse.

A join is fed the text of an answer from its beginning and gives back what may be appended. It holds
bytes until it can decide; held bytes are never committed. Once decided it passes all through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

#: An answer whose first bytes are the document's own is an answer anew.
OPENING_BYTES = 64
#: A repetition shorter than this may be chance; it is kept rather than removed.
MIN_OVERLAP_BYTES = 24
#: How much of the saved text an answer is expected to repeat at most.
MAX_OVERLAP_BYTES = 4096

#: A replay reads the saved text in pieces of about this size, not for every token.
AHEAD_BYTES = 16 * 1024

_SPACE = b" \t\r\n\v\f"


class Refused(Exception):  # noqa: N818 - it names what happened to the join
    """The answer does not go on from where the saved text ends; nothing of it was passed on."""


class AnsweredAnewError(Refused):
    """It begins as the document began."""


class TailNotRepeatedError(Refused):
    """It did not repeat the held-back tail."""


class DiffersError(Refused):
    """The answer asked anew is not the saved one."""


class Join(Protocol):
    """How an answer is joined on."""

    #: Bytes of the answer that were swallowed.
    overlap: int
    #: Did the answer prove that it goes on from exactly here?
    verified: bool
    decided: bool

    async def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the answer; give those to append. Raises `Refused`."""
        ...

    def finish(self) -> bytes:
        """Learn that the answer ended properly; give what is still held. Raises `Refused`."""
        ...


class GoingOn:
    """Joins an answer that was asked to go on behind a prefix (`prefill`)."""

    def __init__(self, *, opening: bytes, tail: bytes, proven: bool) -> None:
        """`tail` was saved but not sent; the answer is expected to repeat it."""
        self._opening = opening[:OPENING_BYTES]
        self._tail = tail
        self._held = b""
        #: Swallowed white space: an answer anew may have begun with it.
        self._space = b""
        self.overlap = 0
        self.verified = proven
        self.decided = False

    async def feed(self, data: bytes) -> bytes:
        """See `Join.feed`."""
        if self.decided:
            return data
        self._held += data
        if self._tail and not self._swallow_tail():
            return b""
        if self._is_opening():
            return b""
        return self._release()

    def finish(self) -> bytes:
        """See `Join.finish`. Shorter than the opening: an answer anew would be at least as long."""
        if not self.decided and self._tail and self.overlap == 0:
            if self._tail.strip(_SPACE):
                raise TailNotRepeatedError
            self._held = self._held[_common(self._held, self._tail) :]
        return self._release()

    def _is_opening(self) -> bool:
        """Tell whether it may still turn out to be an answer anew; raise once it is one."""
        opening = self._opening
        if not opening or (self._tail and self.overlap):
            return False  # who repeats the tail goes on, whatever follows
        said = (self._held, self._space + self._held)
        if any(one.startswith(opening) for one in said):
            raise AnsweredAnewError
        return any(opening.startswith(one) for one in said)

    def _swallow_tail(self) -> bool:
        """Take the tail off the front of what is held; False while that is undecided."""
        if self.overlap:
            return True
        held, tail = self._held, self._tail
        if not tail.strip(_SPACE):
            return self._swallow_space()
        if tail.startswith(held) and len(held) < len(tail):
            return False
        if held.startswith(tail):
            self._held = held[len(tail) :]
            self.overlap = len(tail)
            self.verified = self.verified or len(tail) >= MIN_OVERLAP_BYTES // 2
            return True
        if self._opening.startswith(held[: len(self._opening)]) and len(held) < len(self._opening):
            return False
        if held.startswith(self._opening):
            raise AnsweredAnewError
        raise TailNotRepeatedError

    def _swallow_space(self) -> bool:
        """Of white space swallow the common part: models repeat it or they do not."""
        held, tail = self._held, self._tail
        common = _common(held, tail)
        if common == len(held) < len(tail):
            return False
        self._held, self._space = held[common:], held[:common]
        self._tail = b""
        self.overlap = common
        return True

    def _release(self) -> bytes:
        self.decided = True
        held, self._held = self._held, b""
        return held


def _common(one: bytes, other: bytes) -> int:
    """Give how many bytes two begin with alike."""
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return size


class Replaying:
    """Joins an answer to the same request: swallows what equals the saved bytes (`replay`)."""

    def __init__(self, fetch: Callable[[int, int], Awaitable[bytes]], length: int) -> None:
        """`fetch(start, stop)` reads the saved text, `length` bytes long."""
        self._fetch = fetch
        self._length = length
        self._ahead = b""
        self.overlap = 0
        self.verified = False
        self.decided = length == 0

    async def feed(self, data: bytes) -> bytes:
        """See `Join.feed`."""
        if self.decided:
            return data
        size = min(self._length - self.overlap, len(data))
        if len(self._ahead) < size:
            start = self.overlap + len(self._ahead)
            self._ahead += await self._fetch(start, min(self._length, start + size + AHEAD_BYTES))
        saved, self._ahead = self._ahead[:size], self._ahead[size:]
        if data[: len(saved)] != saved:
            raise DiffersError
        self.overlap += len(saved)
        if self.overlap == self._length:
            self.decided = self.verified = True
        return data[len(saved) :]

    def finish(self) -> bytes:
        """See `Join.finish`."""
        if not self.decided:
            raise DiffersError
        return b""


class Asked:
    """Joins an answer to "go on" (`continue`): removes only a repetition anchored at the end."""

    def __init__(self, *, opening: bytes, end: bytes) -> None:
        """`end` is the end of the saved text, at least what was quoted."""
        self._opening = opening[:OPENING_BYTES]
        self._end = end[-MAX_OVERLAP_BYTES:]
        self._held = b""
        self.overlap = 0
        self.verified = False
        self.decided = False

    async def feed(self, data: bytes) -> bytes:
        """See `Join.feed`."""
        if self.decided:
            return data
        self._held += data
        return b"" if self._is_open() else self._release()

    def finish(self) -> bytes:
        """See `Join.finish`."""
        return b"" if self.decided else self._release()

    def _is_open(self) -> bool:
        """Tell whether more bytes may still show a repetition, or an answer anew."""
        held = self._held
        if len(held) < MIN_OVERLAP_BYTES:
            return True
        if self._opening.startswith(held) and len(held) < len(self._opening):
            return True
        # Every place of the saved end from which what is held so far would be a repetition.
        at = self._end.find(held)
        return at >= 0 and at + len(held) < len(self._end)

    def _release(self) -> bytes:
        held, self._held = self._held, b""
        for size in range(min(len(held), len(self._end)), MIN_OVERLAP_BYTES - 1, -1):
            if self._end.endswith(held[:size]):
                self.overlap, self.verified = size, True
                held = held[size:]
                break
        else:
            if len(self._opening) == OPENING_BYTES and held.startswith(self._opening):
                self._held = b""
                raise AnsweredAnewError
        self.decided = True
        return held
