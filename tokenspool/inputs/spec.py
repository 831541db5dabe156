"""What one input line comes to: a job, or what is wrong with the line."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tokenspool.errors import UsageError
from tokenspool.names import NameTemplate

MiB = 1024 * 1024
#: What a token budget can be at most, and a priority at either end: what the database can hold.
MAX_TOKENS = 2**31 - 1
MAX_PRIORITY = 2**31 - 1


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job as its line asks for it; all is checked. A Struct: a dataclass costs 3 us a line."""

    #: Where it was read: the file as it was named, and the physical line, from 1.
    file: str
    line: int
    custom_id: str
    #: `chat`; other wires follow.
    api: str
    #: The request body as JSON, in the order it was written, `model` filled in, without `stream`.
    body: bytes
    #: 16 bytes that two lines have in common when they ask for the same.
    content: bytes
    #: The output below its root, and what a file system may take for the same name.
    name: str
    name_key: str
    model: str
    priority: int
    max_output_tokens: int | None
    #: JSON: `metadata` as it was given, `line` as `FILE:LINE`.
    extra: bytes

    @property
    def place(self) -> str:
        """`FILE:LINE`, as errors name it."""
        return f"{self.file}:{self.line}"


class BadLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that is no job, and why. Line 0 speaks of the whole file."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else self._of_file()

    def _of_file(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDefaults:
    """What holds for lines that do not say it themselves."""

    #: The batch, as output names may hold it.
    batch: str
    #: None: a line that names no model is an error.
    model: str | None = None
    max_output_tokens: int | None = None
    priority: int = 0
    name: NameTemplate = NameTemplate()  # noqa: RUF009 - frozen
    #: A longer line is reported without being read into memory.
    max_line_bytes: int = 8 * MiB

    def __post_init__(self) -> None:
        """Refuse what no line could say either."""
        tokens = self.max_output_tokens
        if tokens is not None and not 1 <= tokens <= MAX_TOKENS:
            msg = f"--max-output-tokens must be a whole number from 1 to {MAX_TOKENS}"
            raise UsageError(msg)
        if not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            msg = f"--priority must be a whole number from {-MAX_PRIORITY} to {MAX_PRIORITY}"
            raise UsageError(msg)
