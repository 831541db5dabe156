"""One line of JSON, taken strictly."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenspool.errors import UsageError
from tokenspool.inputs.document import MAX_DEPTH, document

BAD = {
    b"{": "it is not JSON: expecting property name enclosed in double quotes at column 2",
    b'{"a": 1': "it is not JSON: expecting ',' delimiter at column 8",
    b'{"a": 1} x': "it is not JSON: extra data at column 10",
    b'{"a": 1}{"b": 2}': "it is not JSON: extra data at column 9",
    b"{'a': 1}": "it is not JSON: expecting property name",
    b'{"a": tru}': "it is not JSON: expecting value at column 7",
    b'{"a": "x\ty"}': "it is not JSON: invalid control character at column 9",
    b"hello": "it is not JSON: expecting value at column 1",
    b'{"a": NaN}': "it is not JSON: NaN is no JSON number",
    b'{"a": Infinity}': "it is not JSON: Infinity is no JSON number",
    b'{"a": -Infinity}': "it is not JSON: -Infinity is no JSON number",
    b'{"a": 1e400}': "a number in it is too large",
    b'{"a": ' + b"9" * 5000 + b"}": "a number in it is too large",
    b'{"a": "\xff"}': "it is not UTF-8: byte 0xff at column 8",
    b'{"a": "\xed\xa0\x80"}': "it is not UTF-8: byte 0xed at column 8",
    b'{"a": "\\ud800"}': r"it has half of a surrogate pair, \ud800",
    b'{"a": "x\\udC00y"}': r"it has half of a surrogate pair, \udC00",
    b'{"\\ud83d": 1}': r"it has half of a surrogate pair, \ud83d",
    b"[1]": "a line is a JSON object; this one is an array",
    b'"x"': "a line is a JSON object; this one is a string",
    b"7": "a line is a JSON object; this one is a number",
    b"null": "a line is a JSON object; this one is null",
    b"true": "a line is a JSON object; this one is true or false",
}


@pytest.mark.parametrize(("line", "why"), BAD.items(), ids=[repr(line[:20]) for line in BAD])
def test_what_is_no_json_object_is_said_with_its_column(line: bytes, why: str) -> None:
    """Each kind of damage has a sentence of its own, and a place where there is one."""
    with pytest.raises(UsageError) as caught:
        document(line)

    assert str(caught.value).startswith(why)


def nested(depth: int) -> bytes:
    """Make an object in which lists lie `depth` deep."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_a_deep_line_is_refused_and_never_overflows_the_stack() -> None:
    """At the limit it is taken; beyond it, however far, there is one sentence."""
    assert document(nested(MAX_DEPTH))

    for depth in (MAX_DEPTH + 1, 900, 5_000, 100_000):
        with pytest.raises(UsageError, match="nested deeper than 100 levels"):
            document(nested(depth))


def test_a_deep_line_that_is_also_broken_is_refused_as_well() -> None:
    """Reading it again to say what is wrong overflows no stack either."""
    with pytest.raises(UsageError):
        document(b"[" * 100_000)


def test_braces_inside_a_prompt_are_not_depth() -> None:
    """A prompt that quotes a program has many braces and is flat all the same."""
    line = json.dumps({"prompt": "{[" * 5_000}).encode()

    assert document(line)["prompt"] == "{[" * 5_000


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a" :1,"a":2}',
        b'{"a":1,"a"\t:2}',
        b'{"b":{"c":[{"a":1,"a":2}]}}',
        b'{"a":1,"\\u0061":2}',
        # Each hides one colon from a count of bytes that a second key would give away.
        b'{"b":"\\u0022:","a":1,"a":2}',
        b'{"b":"\\u003a\\u003A","a":1,"a":2}',
        b'{"b" : 1,"a":1,"a":2}',
        b'{"a":1,"a":"\\":\\":"}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(line: bytes) -> None:
    """Readers differ in which of two values they keep, so neither is taken."""
    with pytest.raises(UsageError, match="the key 'a' is there twice"):
        document(line)


@pytest.mark.parametrize(
    "value",
    ['":', '"', ":", '{"a":1,"a":2}', 'he said "a": "b"', "\\u0022:", '" :', "\u2028", "\x00"],
)
def test_what_looks_like_a_key_inside_a_text_is_none(value: str) -> None:
    """Quotes and colons of a prompt, escaped in whichever way, are no keys."""
    for escaped in (True, False):
        line = json.dumps({"a": value, "b": [value]}, ensure_ascii=escaped).encode()

        assert document(line) == {"a": value, "b": [value]}


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
_separators = st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : "), (",", "\t:")])


@given(st.dictionaries(st.text(), _values, max_size=4), st.booleans(), _separators)
def test_every_json_object_is_read_as_the_standard_library_reads_it(
    value: dict[str, object],
    ascii_only: bool,
    separators: tuple[str, str],
) -> None:
    """Being strict refuses nothing that is sound, however it is spaced and escaped."""
    line = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()

    assert document(line) == json.loads(line)


@given(st.lists(st.tuples(st.text(max_size=3), _values), min_size=1, max_size=4), _separators)
@example([('":', 1), ('":', '":')], (",", ":"))
def test_two_equal_keys_are_found_wherever_they_hide(
    pairs: list[tuple[str, object]], separators: tuple[str, str]
) -> None:
    """However the first of two equal keys is spaced, and whatever its value, it is found."""
    comma, colon = separators
    twice = [*pairs, pairs[0]]
    fields = (json.dumps(key) + colon + json.dumps(value) for key, value in twice)
    line = ("{" + comma.join(fields) + "}").encode()

    with pytest.raises(UsageError, match="is there twice"):
        document(line)
