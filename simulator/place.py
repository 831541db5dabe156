"""What every text of the simulator can do: give its tokens, and find where a prefix of it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a prefix ends."""

    #: What is left of the token that the prefix ends in; empty between two tokens.
    rest: bytes
    #: The first token that the prefix does not touch.
    token: int


class Text(Protocol):
    """An endless text in tokens."""

    def tokens(self, start: int = 0) -> Iterator[bytes]:
        """Give the tokens from `start` on, without end."""
        ...

    def place(self, prefix: bytes) -> Place | None:
        """Find where a prefix ends; None if it is not one of this text's."""
        ...
