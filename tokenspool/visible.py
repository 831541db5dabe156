"""Model text for a terminal: what could steer it, hide or reorder text is shown as an escape."""

from __future__ import annotations

import codecs
import unicodedata

#: Shown although they are control characters: text without them is not readable.
_KEPT = frozenset("\n\t")
#: C0 and DEL (ESC among them), C1; bidi controls and marks; zero-width, invisible and tag
#: characters; lone surrogates, which no terminal can take.
_RANGES = (
    (0x00, 0x1F),
    (0x7F, 0x9F),
    (0xAD, 0xAD),
    (0x061C, 0x061C),
    (0x180E, 0x180E),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0xD800, 0xDFFF),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xE0000, 0xE007F),
)


def _escape(code: int) -> str:
    if code <= 0xFF:  # noqa: PLR2004 - as Python writes it
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


_TABLE = {
    code: _escape(code)
    for first, last in _RANGES
    for code in range(first, last + 1)
    if chr(code) not in _KEPT
}


def visible(text: str) -> str:
    r"""Give `text` so that a terminal shows it and does not obey it.

    >>> visible("\x1b[2Jgone\u202e")
    '\\x1b[2Jgone\\u202e'
    >>> visible("line\n\tword")
    'line\n\tword'
    """
    return text.translate(_TABLE)


def one_line(text: str, *, width: int) -> str:
    r"""Give `text` visible, on one line and at most `width` columns wide.

    >>> one_line("two\nlines of text", width=10)
    'two lines…'
    """
    shown = visible(" ".join(text.split()))
    if columns(shown) <= width:
        return shown
    while shown and columns(shown) > width - 1:
        shown = shown[:-1]
    return shown.rstrip() + "…"


def columns(text: str) -> int:
    """Tell how many terminal columns `text` takes: wide characters take two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


class VisibleBytes:
    """Turns a stream of UTF-8 bytes, cut anywhere, into visible text."""

    def __init__(self) -> None:
        """Begin at a character boundary."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """Give the text that `data` completes."""
        return visible(self._decoder.decode(data, final))
