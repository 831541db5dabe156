"""Options that jobs which are there already are to get, kept aside until all lines are found good.

On disk, since there may be as many as there are jobs. A crash before they are applied loses them;
the same command finds them again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import msgspec
import sqlalchemy as sa

from tokenspool.inputs.spec import JobSpec
from tokenspool.store.intake.options import JobOptions
from tokenspool.store.intake.place import make_endpoint
from tokenspool.store.intake.reasons import SETTLED
from tokenspool.store.intake.turns import MAX_ROWS, Turns

_SIZE_BYTES = 4


class _Change(msgspec.Struct, array_like=True):
    """What one job is to get: its endpoint by name, and the values of `_COLUMNS`."""

    job_id: int
    asked: tuple[str, str, str]
    values: tuple[Any, ...]


_COLUMNS = (
    "priority",
    "max_output_tokens",
    "resume",
    "max_continuations",
    "max_attempts",
    "on_seam",
    "extra",
)
#: Straight on the driver: a rerun with another address may touch every job there is.
_UPDATE = (
    f"UPDATE job SET endpoint_id = ?, {', '.join(f'{name} = ?' for name in _COLUMNS)}"  # noqa: S608
    f" WHERE id = ? AND state NOT IN ({', '.join('?' * len(SETTLED))})"
)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Change).decode


class Changes:
    """A list of changes in a temporary file."""

    def __init__(self) -> None:
        """Begin empty."""
        self._file = tempfile.TemporaryFile(prefix="tokenspool-")  # noqa: SIM115 - see __exit__
        self._empty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, job_id: int, spec: JobSpec, options: JobOptions) -> None:
        """Note what a job is to get."""
        change = _Change(
            job_id=job_id,
            asked=(options.base_url, spec.model, options.api_key_env),
            values=(
                spec.priority,
                spec.max_output_tokens,
                options.resume.value,
                options.max_continuations,
                options.max_attempts,
                options.on_seam,
                spec.extra,
            ),
        )
        data = _encode(change)
        self._file.write(len(data).to_bytes(_SIZE_BYTES, "big") + data)
        self._empty = False

    def apply(self, turns: Turns) -> None:
        """Give the jobs their new options, unless they are settled by now."""
        if self._empty:
            return
        self._file.seek(0)
        for chunk in self._chunks(turns):
            turns.write(partial(_apply, changes=chunk), rows=len(chunk))

    def _chunks(self, turns: Turns) -> Iterator[list[_Change]]:
        chunk: list[_Change] = []
        while size := self._file.read(_SIZE_BYTES):
            chunk.append(_decode(self._file.read(int.from_bytes(size, "big"))))
            # Rows that others may be waiting for: a beat writes into running jobs.
            if len(chunk) >= min(turns.rows, MAX_ROWS):
                yield chunk
                chunk = []
        if chunk:
            yield chunk


def _apply(connection: sa.Connection, changes: Sequence[_Change]) -> None:
    endpoints = {asked: make_endpoint(connection, asked) for asked in {c.asked for c in changes}}
    # In the order of their ids, as everywhere: two bulk actions must not cross.
    rows = [
        (endpoints[change.asked], *change.values, change.job_id, *SETTLED)
        for change in sorted(changes, key=lambda change: change.job_id)
    ]
    statement = _UPDATE
    if connection.dialect.name == "postgresql":
        statement = statement.replace("?", "%s")
    connection.exec_driver_sql(statement, rows)
