"""The lines of an input, read one at a time: a line over the limit is skipped, never held."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tokenspool.errors import UsageError
from tokenspool.inputs.spec import BadLine, MiB

STDIN = "-"
_SKIP_BYTES = MiB
_UTF8_BOM = b"\xef\xbb\xbf"
#: Read to its end, such a file would be one complaint per line about the same thing.
_NOT_TEXT = (
    (b"\x1f\x8b", "it is compressed with gzip; unpack it first"),
    (b"PK\x03\x04", "it is a zip archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it first"),
    (b"\xff\xfe", "it is UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "it is UTF-16; save it as UTF-8"),
)
#: UTF-16 without a mark: every other byte of what must begin like `{"` is a NUL.
_IS_WIDE = re.compile(rb"[\t-~]\0(?:[\t-~]|$)|\0[\t-~](?:\0|$)").match
#: A NUL among so many first bytes means that it is no text.
_LOOKED_AT = 8
_LATER = frozenset({".csv", ".parquet"})


def check_path(path: str) -> None:
    """Raise `UsageError` for what can be known to be no input before anything is read."""
    if path == STDIN:
        if sys.stdin is None or sys.stdin.closed:
            msg = "standard input is closed; give a file, or pipe the lines in"
            raise UsageError(msg)
        return
    file = Path(path)
    if file.suffix.lower() in _LATER:
        msg = f"{path}: {file.suffix.lower()} inputs follow later; write it as .jsonl for now"
        raise UsageError(msg)
    try:
        # A FIFO is left alone: opening it would take the place of its one reader.
        if file.is_file():
            file.open("rb").close()
        elif file.is_dir():
            msg = f"{path} is a folder; name the files in it"
            raise UsageError(msg)
        else:
            file.stat()
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file"
        raise UsageError(msg) from error
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        msg = f"{path} cannot be read: {reason}"
        raise UsageError(msg) from error


def shown(path: str) -> str:
    """Give the input as errors name it; a file's name may be bytes that are no text."""
    return "stdin" if path == STDIN else path.encode(errors="backslashreplace").decode()


def lines(path: str, *, max_bytes: int) -> Iterator[tuple[int, bytes | BadLine]]:
    """Yield (number, line) for every line that is not empty, without its end.

    A line longer than `max_bytes` comes as a `BadLine` and is never in memory as a whole; a file
    that is no UTF-8 text, that is empty or that stops being readable comes as one, too.
    """
    found = False
    try:
        with _opened(path) as file:
            for number, line in _bounded(file, path, max_bytes=max_bytes):
                found = True
                yield number, line
    except OSError as error:
        yield 0, BadLine(file=shown(path), line=0, reason=f"reading stopped: {error.strerror}")
        return
    if not found:
        yield 0, BadLine(file=shown(path), line=0, reason="there is nothing in it")


def _opened(path: str) -> BinaryIO:
    if path == STDIN:
        # A descriptor of our own: closing it leaves the process its standard input.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return Path(path).open("rb")


def _bounded(file: BinaryIO, path: str, *, max_bytes: int) -> Iterator[tuple[int, bytes | BadLine]]:
    number = 0
    while raw := file.readline(max_bytes + 2):
        number += 1
        if number == 1:
            if reason := _not_text(raw):
                yield 0, BadLine(file=shown(path), line=0, reason=reason)
                return
            raw = raw.removeprefix(_UTF8_BOM)
        line = raw.rstrip(b"\r\n")
        if len(line) > max_bytes or (len(raw) > max_bytes + 1 and not raw.endswith(b"\n")):
            _skip_rest(file, raw)
            reason = f"the line is longer than {max_bytes:,} bytes (max_line_bytes)"
            yield number, BadLine(file=shown(path), line=number, reason=reason)
        elif line and not line.isspace():
            yield number, line


def _not_text(raw: bytes) -> str | None:
    for magic, reason in _NOT_TEXT:
        if raw.startswith(magic):
            return reason
    if b"\x00" not in raw[:_LOOKED_AT]:
        return None
    return "it is UTF-16; save it as UTF-8" if _IS_WIDE(raw) else "it is binary, not lines of text"


def _skip_rest(file: BinaryIO, raw: bytes) -> None:
    """Read to the end of a line that is too long, without keeping it."""
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(_SKIP_BYTES)
