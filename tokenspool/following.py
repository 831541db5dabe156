"""A job's text as pieces, while it grows: one look at the database at a time."""

from __future__ import annotations

from dataclasses import dataclass

from tokenspool.database import Database
from tokenspool.errors import UsageError
from tokenspool.model import JobState
from tokenspool.store import lookup
from tokenspool.store.following import Position, look
from tokenspool.store.intake.turns import reading

#: With all its text committed and proven, nothing follows: only publishing is left.
_WHOLE = frozenset({JobState.COMPLETE, JobState.DONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some more of a job's text: whole characters, behind all pieces before."""

    text: str
    #: Behind this piece: go on from here with `follow(from_byte, edition=…)`.
    edition: int
    end_byte: int
    #: The text began anew: what came before it is not the text any more.
    reset: bool = False

    def __str__(self) -> str:
        return self.text


class Follower:
    """Follows one job from a position; knows where it is and whether anything can follow."""

    def __init__(
        self, database: Database, job_id: int, *, from_byte: int, edition: int | None
    ) -> None:
        """Without an `edition` it is the one that is current now."""
        if from_byte < 0:
            msg = f"from_byte counts from the beginning of the text, from 0, not {from_byte}"
            raise UsageError(msg)
        self._database = database
        self._job_id = job_id
        if edition is None:
            point = reading(database, lambda c: lookup.show(c, job_id)).checkpoint
            edition = point.edition if point else 1
        self._at = Position(edition=edition, offset=from_byte)
        self.state = JobState.PENDING
        #: There is more than one look gives: look again at once.
        self.has_more = True
        #: Nothing follows by itself.
        self.is_over = False

    @property
    def is_whole(self) -> bool:
        """Whether all of a proven answer has been given."""
        return self.is_over and self.state in _WHOLE

    @property
    def end_byte(self) -> int:
        """Where it stands."""
        return self._at.offset

    def step(self) -> Piece | None:
        """Look once; None when there is nothing new."""
        news = look(self._database, self._job_id, after=self._at)
        start = news.position.offset - len(news.data)
        # A look ends after so many bytes, wherever that is.
        data = news.data[: _whole(news.data)] if news.more else news.data
        self._at = Position(edition=news.position.edition, offset=start + len(data))
        self.state, self.has_more = news.state, news.more
        self.is_over = news.is_last or (news.state in _WHOLE and not news.more)
        if not data and not news.reset:
            return None
        return Piece(
            # Begun in the middle of a character, it shows a mark for the half of it.
            text=data.decode(errors="replace"),
            edition=self._at.edition,
            end_byte=self._at.offset,
            reset=news.reset,
        )


def _whole(data: bytes) -> int:
    """Give the length of `data` without an unfinished character at its end.

    >>> _whole("aé".encode()[:2])
    1
    """
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:  # noqa: PLR2004 - ASCII
            break
        if byte >= 0xC0:  # noqa: PLR2004 - it begins a character
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4  # noqa: PLR2004 - UTF-8
            return len(data) - back if size > back else len(data)
    return len(data)
