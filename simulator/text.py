"""Documents: endless texts of which token `i` is a pure function of (seed, key, i)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

from simulator.mixing import STRIDE, mix
from simulator.passages import COUNT, TOKENS, Passage, passage
from simulator.place import Place
from simulator.sampled import check_sampled

__all__ = ["Document", "Shape", "check_sampled"]

#: `prose` never says the same twice; `refrain` repeats its opening, verbatim, between the verses.
Shape = Literal["prose", "refrain"]

#: A block is a heading and a passage.
BLOCK = 1 + TOKENS
#: How a refrain begins; it has no number, or it would not be the same each time.
_REFRAIN = "♪".encode()


class Document:
    """The text that seed and key decide. No two of its blocks are the same, but for refrains."""

    __slots__ = ("_base", "_refrain", "_seed")

    def __init__(self, seed: int, key: int, *, shape: Shape = "prose") -> None:
        self._seed = seed
        self._base = mix(mix(seed) + key)
        self._refrain = shape == "refrain"

    def token(self, number: int) -> bytes:
        """Give one token."""
        return next(self.tokens(number))

    def tokens(self, start: int = 0) -> Iterator[bytes]:
        """Give the tokens from `start` on, without end."""
        first, skipped = divmod(start, BLOCK)
        heading, words = self._block(first)
        yield from itertools.islice((heading, *words.tokens), skipped, None)
        for number in itertools.count(first + 1):
            heading, words = self._block(number)
            yield heading
            yield from words.tokens

    def text(self, count: int) -> bytes:
        """Give the first `count` tokens as one text."""
        return b"".join(itertools.islice(self.tokens(), count))

    def place(self, prefix: bytes) -> Place | None:
        """Find where a prefix ends, at any byte; None if it is not a prefix of this text."""
        at = number = 0
        while True:
            heading, words = self._block(number)
            body = at + len(heading)
            end = body + len(words.data)
            if end > len(prefix):
                break
            if not (prefix.startswith(heading, at) and prefix.startswith(words.data, body)):
                return None
            at = end
            number += 1
        block = heading + words.data
        if not block.startswith(prefix[at:]):
            return None
        return _inside((heading, *words.tokens), len(prefix) - at, first=number * BLOCK)

    def _block(self, number: int) -> tuple[bytes, Passage]:
        if self._refrain and number % 2 == 0:
            return _REFRAIN, passage(self._seed, mix(self._base) % COUNT)
        chosen = mix(self._base + number * STRIDE) % COUNT
        # The number keeps two equal passages in a row from looking like text said twice.
        return b"%d." % (number + 1), passage(self._seed, chosen)


def _inside(tokens: tuple[bytes, ...], size: int, *, first: int) -> Place:
    """Find where in these tokens, the first of which is number `first`, `size` bytes end."""
    for number, token in enumerate(tokens, first):
        if size < len(token):
            return Place(rest=token[size:] if size else b"", token=number + bool(size))
        size -= len(token)
    return Place(rest=b"", token=first + len(tokens))
