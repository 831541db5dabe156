"""What people may call their jobs, batches and outputs."""

from __future__ import annotations

import pytest

from tokenspool.errors import UsageError
from tokenspool.names import (
    NameTemplate,
    check_batch,
    check_custom_id,
    check_name,
    name_key,
    quoted,
    word_from,
)

GOOD_IDS = ["a", "intro", "ch-1", "-v", "a.b_c", ".hidden", "2024 report", "Straße", "テスト", "🦊"]
BAD_IDS = {
    "": "empty",
    "../x": "slash",
    "/etc/passwd": "slash",
    "..\\x": "backslash",
    ".": "dots",
    "..": "dots",
    "....": "dots",
    " a": "space",
    "a ": "space",
    "a\nb": r"U\+000A",
    "a\tb": r"U\+0009",
    "a\x00b": r"U\+0000",
    "a\x1b[2J": r"U\+001B",
    "a\x7f": r"U\+007F",
    "a\x9b": r"U\+009B",
    "a\u202eb": r"U\+202E",
    "a\u200bb": r"U\+200B",
    "a\u2028b": r"U\+2028",
    "a\ufeff": r"U\+FEFF",
    "a\ud800": r"U\+D800",
    "x" * 201: "longer than 200 bytes",
    "é" * 101: "longer than 200 bytes",
    "x" * 10_000: "longer than 200 bytes",
}


@pytest.mark.parametrize("custom_id", [*GOOD_IDS, "x" * 200, "é" * 100])
def test_a_custom_id_that_can_be_shown_is_taken(custom_id: str) -> None:
    """All that can be told apart on a screen and on a disk is a name, in any script."""
    check_custom_id(custom_id)

    check_name(NameTemplate().name(custom_id=custom_id, batch="b", line=1))


@pytest.mark.parametrize(("custom_id", "why"), BAD_IDS.items(), ids=map(ascii, BAD_IDS))
def test_a_custom_id_that_could_do_harm_is_refused(custom_id: str, why: str) -> None:
    """Nothing leaves the output folder or hides on a screen; the sentence says why and is short."""
    with pytest.raises(UsageError, match=why) as caught:
        check_custom_id(custom_id)

    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_a_batch_is_named_by_the_same_rules() -> None:
    """A batch name is shown and typed like a custom_id."""
    check_batch("prompts of May")

    with pytest.raises(UsageError, match="batch name 'a/b' has a slash"):
        check_batch("a/b")


BAD_NAMES = {
    "/abs.md": "relative",
    "a//b.md": "relative",
    "a/": "relative",
    "": "relative",
    "../a.md": "dots",
    "a/../b.md": "dots",
    "a/./b.md": "dots",
    "a\\b.md": "backslash",
    ".tokenspool/spool.db": "database",
    ".TokenSpool/x": "database",
    "sub/.tokenspool/x": "database",
    "a.md.e1.part": "part file",
    "a.md.E12.PART": "part file",
    "a.e1.PaRt": "part file",
    "a.e3.part/b.md": "part file",
    "a/ b.md": "space",
    "a /b.md": "space",
    "a\nb.md": "cannot be shown",
    "x" * 239: "longer than 238 bytes",
    "x" * 256 + "/a.md": "longer than 255 bytes",
    "é" * 120: "longer than 238 bytes",
    "ab/" * 300 + "c": "longer than 800 bytes",
}


@pytest.mark.parametrize(("name", "why"), BAD_NAMES.items(), ids=map(ascii, BAD_NAMES))
def test_an_output_name_stays_below_its_folder_and_out_of_our_way(name: str, why: str) -> None:
    """No name is absolute, climbs, hits the database or a part file, or leaves it no room."""
    with pytest.raises(UsageError, match=why):
        check_name(name)


@pytest.mark.parametrize("name", ["a.md", "x/y/z.txt", "part", "a.part", "x" * 238, "Tag/Übung.md"])
def test_an_ordinary_output_name_is_taken(name: str) -> None:
    """Folders are fine, and so is a name that only looks a little like a part file."""
    check_name(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A.md", "a.MD"),
        ("é.md", "e\u0301.md"),
        ("Straße", "STRASSE"),
        ("\ufb01", "FI"),
        ("\u212b", "å"),
        # Folding takes these apart in two ways unless they are composed before and after.
        ("\u1fb4", "\u03b1\u0345\u0301"),
        ("\u0390", "\u03aa\u0301"),
    ],
)
def test_names_that_a_disk_may_mix_up_have_one_key(one: str, other: str) -> None:
    """Case-folding and normalising file systems take these for the same file."""
    assert name_key(one) == name_key(other)


def test_names_that_no_disk_mixes_up_have_two_keys() -> None:
    """What differs in more than case and form may stand side by side."""
    assert name_key("a.md") != name_key("b.md")
    assert name_key("e.md") != name_key("é.md")


def test_a_template_names_outputs_by_custom_id_batch_and_line() -> None:
    """All three fields, the line with leading zeros if asked for, in folders if asked for."""
    template = NameTemplate(text="{batch}/{line:05}-{custom_id}.txt")

    assert template.name(custom_id="x", batch="b", line=7) == "b/00007-x.txt"


@pytest.mark.parametrize(
    "text",
    ["{}", "{0}", "{id}.md", "{custom_id", "custom_id}", "{custom_id!r}", "{custom_id.x}",
     "{custom_id:>99999999}", "{line:{batch}}", "{line:999999999}"],
)  # fmt: skip
def test_a_template_with_anything_else_is_refused(text: str) -> None:
    """An unknown field, a conversion or a width that eats memory is a usage error at the start."""
    with pytest.raises(UsageError, match="--name"):
        NameTemplate(text=text)


def test_a_part_that_is_wrong_is_told_with_the_whole_name() -> None:
    """A person looks for what stands in the line."""
    with pytest.raises(
        UsageError, match=r"output name '\.\./x\.md' has a part that is nothing but"
    ):
        check_name("../x.md")


def test_a_template_cannot_lead_out_of_the_folder() -> None:
    """What the template makes is checked like a name that was given."""
    with pytest.raises(UsageError, match="dots"):
        NameTemplate(text="../{custom_id}").name(custom_id="x", batch="b", line=1)


@pytest.mark.parametrize(
    ("stem", "word"),
    [("prompts", "prompts"), ("a\nb", "a_b"), ("..", ".._"), ("", "_"), (" x ", "x"), ("\\", "_")],
)
def test_a_stem_becomes_a_name(stem: str, word: str) -> None:
    """Whatever a file is called, what it lends to custom_ids and batches passes their check."""
    assert word_from(stem) == word
    check_batch(word_from(stem))


def test_a_long_stem_leaves_room_for_the_line_number() -> None:
    """A stem of 255 bytes is cut at a character, so that its numbered ids are short enough."""
    custom_id = f"{word_from('é' * 127, room=12)}-{10**9}"

    check_custom_id(custom_id)


def test_quoting_keeps_a_sentence_short_and_visible() -> None:
    """A huge or odd name in a message neither floods nor steers a terminal."""
    assert quoted("a\x1b") == r"'a\x1b'"
    assert len(quoted("x" * 10_000)) < 50
