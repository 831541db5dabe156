"""Numbers that look random and are the same everywhere: on every Python, platform and day.

`random` promises that for its raw floats only; texts that are compared between machines need more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

MASK = (1 << 64) - 1
#: 2^64 divided by the golden ratio: steps of this size visit every number before one comes again.
STRIDE = 0x9E3779B97F4A7C15


def mix(number: int) -> int:
    """Give 64 bits in which every bit depends on every bit of `number`."""
    number &= MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def fingerprint(parts: Iterable[bytes]) -> int:
    """Give 64 bits for a list of byte strings; lists that only join differently differ."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "big")


class Draws:
    """A sequence of draws that its seed decides."""

    __slots__ = ("_state",)

    def __init__(self, *seeds: int) -> None:
        state = 0
        for seed in seeds:
            state = mix(state + STRIDE + seed)
        self._state = state

    def below(self, limit: int) -> int:
        """Draw one of 0 … limit - 1."""
        self._state = (self._state + STRIDE) & MASK
        return mix(self._state) % limit

    def share(self) -> float:
        """Draw a number from 0 up to, not including, 1."""
        return self.below(1 << 53) / (1 << 53)

    def one_of(self, options: Sequence[T]) -> T:
        """Draw one of the options."""
        return options[self.below(len(options))]
