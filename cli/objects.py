"""Published objects, as the commands that look at outputs read and mend them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from pipeline.outputs.objects import ObjectOutput
from pipeline.ports import FinishedText
from tokenspool.errors import Unavailable
from tokenspool.store.outcomes import Outcome
from tokenspool.store.publishing import born

#: Connections are kept for each root; a database has few.
_output = functools.lru_cache(maxsize=64)(ObjectOutput)


def read_object(outcome: Outcome) -> Iterator[bytes]:
    """Yield a published object's bytes.

    Raises FileNotFoundError if it is missing, and `Unavailable` if the store cannot be asked.
    """
    try:
        yield from _output(outcome.root).read(outcome.name)
    except FileNotFoundError:
        raise
    except OSError as error:
        msg = f"{outcome.path} cannot be read: {error.strerror}; mend that and try again"
        raise Unavailable(msg) from error


def replace_object(
    connection: sa.Connection, outcome: Outcome, journal: Callable[[], Iterator[bytes]]
) -> None:
    """Put a text over whatever stands there. Raises OSError, also for a journal that differs."""
    text = FinishedText(
        job=outcome.as_job(),
        born=born(connection, outcome.id),
        size=outcome.length or 0,
        sha256=outcome.sha256 or b"",
        read=journal,
        stands=lambda: True,
    )
    _output(outcome.root).replace(text)
