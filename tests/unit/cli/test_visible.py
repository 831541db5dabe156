from __future__ import annotations

import pytest

from tokenspool.visible import VisibleBytes, columns, one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;AAAA\x07", "\\x1b]52;c;AAAA\\x07"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb", "a\\x0db"),
        ("\x7f", "\\x7f"),
        ("\u202etxt.exe\u202c", "\\u202etxt.exe\\u202c"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("in\u200bvisible\ufeff", "in\\u200bvisible\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
    ],
)
def test_what_steers_or_hides_is_shown_as_an_escape(text: str, shown: str) -> None:
    """No character that a terminal obeys, or that nobody sees, gets through."""
    assert visible(text) == shown


def test_text_that_people_read_is_left_alone() -> None:
    """Line ends, tabs and every script stay as they are."""
    text = "line\n\ttab é Ж 你好 العربية हिन्दी 🙂"

    assert visible(text) == text


@pytest.mark.parametrize("cut", range(1, 12))
def test_bytes_cut_inside_a_character_are_put_together(cut: int) -> None:
    """A stream that is cut anywhere gives the same text."""
    data = "a你🙂\x1bb".encode()
    stream = VisibleBytes()

    text = stream.feed(data[:cut]) + stream.feed(data[cut:]) + stream.feed(b"", final=True)

    assert text == "a你🙂\\x1bb"


def test_bytes_that_are_no_text_are_shown_as_escapes() -> None:
    """Damage is visible and stops nothing."""
    stream = VisibleBytes()

    assert stream.feed(b"a\xffb\xf0\x9f", final=True) == "a\\xffb\\xf0\\x9f"


def test_one_line_is_never_wider_than_the_terminal() -> None:
    """Wide characters count as two columns, line ends as spaces."""
    line = one_line("你好你好\n你好", width=6)

    assert line == "你好…"
    assert columns(line) <= 6
