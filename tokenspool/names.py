"""Names that people give: custom_ids, batches, and where an output lies below its folder.

Each check raises `UsageError` with a sentence. A name that passes can be shown on a terminal, never
leaves the output's folder, and never meets a file that tokenspool makes itself.
"""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass

from tokenspool.errors import UsageError

MAX_ID_BYTES = 200
#: PostgreSQL indexes at most 2,704 bytes, and folding case can make a name three times as long.
MAX_NAME_BYTES = 800
#: Longest name of a file on the file systems we know, in bytes.
MAX_PART_BYTES = 255
#: Leaves room for the suffix of a part file at the highest epoch there can be.
MAX_FILE_BYTES = MAX_PART_BYTES - len(".e1234567890.part")
#: Where a folder's database lies.
RESERVED = ".tokenspool"
DEFAULT_NAME = "{custom_id}.md"

#: Most names there are; all else is looked at character by character.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,198}").fullmatch
_PART_FILE = re.compile(r".*\.e[0-9]+\.part", re.IGNORECASE | re.DOTALL).fullmatch
_FIELDS = ("custom_id", "batch", "line")
_SHOWN_CHARS = 40


def quoted(text: str) -> str:
    r"""Give `text` as a sentence may show it: escaped, and not longer than a line.

    >>> quoted("a\nb")
    "'a\\nb'"
    """
    return repr(text) if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]!r}…"


def check_custom_id(custom_id: str) -> None:
    """Raise `UsageError` unless `custom_id` can name a job and its file."""
    if not _PLAIN(custom_id):
        _check_word("custom_id", custom_id)


def check_batch(name: str) -> None:
    """Raise `UsageError` unless `name` can name a batch."""
    _check_word("batch name", name)


def _check_word(what: str, text: str) -> None:
    if not text:
        msg = f"the {what} is empty"
        raise UsageError(msg)
    if len(text) > MAX_ID_BYTES or len(text.encode(errors="replace")) > MAX_ID_BYTES:
        msg = f"the {what} {quoted(text)} is longer than {MAX_ID_BYTES} bytes"
        raise UsageError(msg)
    if "/" in text or "\\" in text:
        msg = f"the {what} {quoted(text)} has a slash or backslash in it; use - or _ instead"
        raise UsageError(msg)
    _check_shown(what, text)


def _check_shown(what: str, text: str, *, whole: str = "") -> None:
    """Refuse what could not be seen or told apart on a screen, and names of nothing but dots.

    `whole` is the path that `text` is a part of, as it was given.
    """
    named = f"the {what} {quoted(whole or text)}"
    if not text.isprintable():
        bad = next(char for char in text if not char.isprintable())
        msg = f"{named} has a character that cannot be shown: U+{ord(bad):04X}"
        raise UsageError(msg)
    part = " has a part that" if whole not in {"", text} else ""
    if text[0] == " " or text[-1] == " ":
        msg = f"{named}{part} begins or ends with a space"
        raise UsageError(msg)
    if not text.strip("."):
        msg = f"{named}{part} is nothing but dots"
        raise UsageError(msg)


def check_name(name: str) -> None:
    """Raise `UsageError` unless `name` is a path below an output's folder that we may write to."""
    if _PLAIN(name) and name[-5:].lower() != ".part":
        return
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        msg = f"the output name {quoted(name)} is longer than {MAX_NAME_BYTES} bytes"
        raise UsageError(msg)
    if "\\" in name:
        msg = f"the output name {quoted(name)} has a backslash in it; folders are parted by /"
        raise UsageError(msg)
    parts = name.split("/")
    for part in parts:
        _check_part(name, part)
    if len(parts[-1].encode()) > MAX_FILE_BYTES:
        msg = f"the output name {quoted(name)} is longer than {MAX_FILE_BYTES} bytes"
        raise UsageError(msg)


def _check_part(name: str, part: str) -> None:
    if not part:
        msg = f"the output name {quoted(name)} must be relative, with no empty folder in it"
        raise UsageError(msg)
    _check_shown("output name", part, whole=name)
    if len(part.encode()) > MAX_PART_BYTES:
        msg = f"the output name {quoted(name)} has a folder longer than {MAX_PART_BYTES} bytes"
        raise UsageError(msg)
    if name_key(part) == RESERVED:
        msg = f"the output name {quoted(name)} lies in {RESERVED}, where the database is"
        raise UsageError(msg)
    if _PART_FILE(part):
        msg = f"the output name {quoted(name)} looks like a part file; leave out .part"
        raise UsageError(msg)


def name_key(name: str) -> str:
    """Give what two names have in common when some file system takes them for one.

    >>> name_key("Straße.MD") == name_key("STRASSE.md")
    True
    """
    if name.isascii():
        return name.lower()
    folded = unicodedata.normalize("NFC", name).casefold()
    return unicodedata.normalize("NFC", folded)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTemplate:
    """How outputs are called: `--name`, with the fields custom_id, batch and line."""

    text: str = DEFAULT_NAME

    def __post_init__(self) -> None:
        """Refuse a template that could never give a name."""
        try:
            fields = [part for part in string.Formatter().parse(self.text) if part[1] is not None]
        except ValueError as error:
            msg = f"--name {quoted(self.text)} is not a template: {error}"
            raise UsageError(msg) from error
        for _, field, form, conversion in fields:
            digits = field == "line" and re.fullmatch(r"0?[0-9]?", form or "")
            if field not in _FIELDS or conversion or (form and not digits):
                known = ", ".join(f"{{{name}}}" for name in _FIELDS)
                msg = f"--name {quoted(self.text)}: there are only {known} (and {{line:05}})"
                raise UsageError(msg)

    def name(self, *, custom_id: str, batch: str, line: int) -> str:
        """Give the checked name of one job's output."""
        if self.text == DEFAULT_NAME:
            if _PLAIN(custom_id):
                # Checked already, and nothing that ends with .md is a part file.
                return f"{custom_id}.md"
            name = f"{custom_id}.md"
        else:
            name = self.text.format(custom_id=custom_id, batch=batch, line=line)
        check_name(name)
        return name


def word_from(stem: str, *, room: int = 0) -> str:
    r"""Make a file's stem fit for a batch or, with `room` bytes to spare, the head of a custom_id.

    >>> word_from("my prompts\n")
    'my prompts_'
    """
    shown = "".join(
        char if char.isprintable() and char not in "/\\" else "_" for char in stem.strip(" ")
    )
    cut = shown.encode()[: MAX_ID_BYTES - room].decode(errors="ignore").rstrip(" ")
    return cut if cut.strip(".") else cut + "_"
