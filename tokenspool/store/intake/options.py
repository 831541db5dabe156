"""What an enqueue is told for all its jobs, and what it answers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import urlsplit

from tokenspool.errors import UsageError
from tokenspool.inputs.spec import BadLine
from tokenspool.model import Resume

#: Bad lines kept for the answer; each is reported when it is found.
KEPT_ERRORS = 100
_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What holds for all jobs of an enqueue and is no part of their content."""

    base_url: str
    #: The NAME of the environment variable with the key.
    api_key_env: str = "OPENAI_API_KEY"
    resume: Resume = Resume.AUTO
    max_continuations: int = 64
    max_attempts: int = 5
    #: `mark` or `fail`: what becomes of a seam that is not verified.
    on_seam: str = "mark"

    def __post_init__(self) -> None:
        """Refuse what must not get into the database; one endpoint has one spelling."""
        object.__setattr__(self, "base_url", checked_url(self.base_url))
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", self.api_key_env):
            msg = "api_key_env is the name of an environment variable, not the key itself"
            raise UsageError(msg)
        if self.on_seam not in {"mark", "fail"}:
            msg = f"--on-seam is mark or fail, not {self.on_seam!r}"
            raise UsageError(msg)
        for name in ("max_continuations", "max_attempts"):
            if not 1 <= getattr(self, name) <= _INT32:
                msg = f"--{name.replace('_', '-')} must be a whole number from 1 to {_INT32}"
                raise UsageError(msg)


def checked_url(url: str) -> str:
    """Give a base URL as it is kept: http or https, a host, a path, and no secret anywhere."""
    # Never shown: a URL that is refused here may hold a password.
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        msg = "the base URL is not one; for example http://127.0.0.1:8000/v1"
        raise UsageError(msg) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or not url.isprintable():
        msg = "the base URL must begin with http:// or https:// and name a host"
        raise UsageError(msg)
    if "@" in parts.netloc or parts.query or parts.fragment or " " in url:
        msg = (
            "the base URL must not hold a user, a password or a query: keys are named"
            " (api_key_env), never kept"
        )
        raise UsageError(msg)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    """What came of an enqueue, or what has come of it so far."""

    #: Jobs that were not there before.
    new: int = 0
    #: Lines whose job was there already, just so.
    same: int = 0
    #: Lines whose job was there already, unfinished, with other options: it has these now.
    updated: int = 0
    #: Lines that are no job.
    invalid: int = 0
    #: The first of the bad lines.
    errors: tuple[BadLine, ...] = ()
    #: Is it in the database now? False after a dry run, and when a bad line was not to be skipped.
    accepted: bool = False

    @property
    def lines(self) -> int:
        """Lines read so far."""
        return self.new + self.same + self.updated + self.invalid

    def after(
        self, *, new: int = 0, same: int = 0, updated: int = 0, bad: Sequence[BadLine] = ()
    ) -> Self:
        """Give the answer with some more lines in it."""
        room = KEPT_ERRORS - len(self.errors)
        return replace(
            self,
            new=self.new + new,
            same=self.same + same,
            updated=self.updated + updated,
            invalid=self.invalid + len(bad),
            errors=(*self.errors, *bad[:room]) if room else self.errors,
        )


def _nothing(*_: object) -> None:
    """Take no notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who is told what while an enqueue goes on."""

    #: Every bad line, when it is found.
    report: Callable[[BadLine], None] = _nothing
    #: How far it is, now and then.
    progress: Callable[[Enqueued], None] = _nothing
    #: Another enqueue on this database is waited for.
    waiting: Callable[[], None] = _nothing
    #: How to leave the database to others for some seconds.
    pause: Callable[[float], None] = time.sleep
