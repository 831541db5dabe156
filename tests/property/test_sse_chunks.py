"""Decoding many chunks at once is decoding each of them."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.chunks import Bad, decode, decode_many

values: st.SearchStrategy[object] = st.one_of(
    st.none(), st.text(max_size=4), st.integers(), st.floats(), st.just([])
)
parts = st.fixed_dictionaries(
    {}, optional={"content": values, "reasoning": values, "tool_calls": values, "role": values}
)
choices = st.fixed_dictionaries({}, optional={"delta": parts, "finish_reason": values})
chunks = st.fixed_dictionaries(
    {}, optional={"choices": st.one_of(values, st.lists(choices)), "usage": values, "error": values}
)
payloads = st.one_of(
    chunks.map(lambda chunk: json.dumps(chunk).encode()),
    chunks.map(lambda chunk: json.dumps(chunk, ensure_ascii=False).encode("utf-8", "replace")),
    st.sampled_from(
        [b"null", b"[]", b"[DONE]", b"{", b'{"choices":[', b"", b"1,2", b"\xff", b"NaN"]
    ),
    st.binary(max_size=8),
    st.just(b'{"a":' * 5000),
)


@settings(deadline=None)
@given(st.lists(payloads, max_size=6))
def test_many_at_once_are_each_of_them(some: list[bytes]) -> None:
    """One broken payload never changes what the others give; nothing is raised."""
    found = decode_many(some)

    assert len(found) == len(some)
    # Compared as JSON: NaN is not equal to itself.
    assert repr(found) == repr([decode(payload) for payload in some])


@settings(deadline=None)
@given(chunks)
def test_any_object_is_a_chunk(chunk: dict[str, object]) -> None:
    """Whatever types its fields have, a JSON object is not malformed."""
    found = decode(json.dumps(chunk).encode())

    assert not isinstance(found, Bad)


@settings(deadline=None)
@given(st.text(), st.text())
def test_text_is_read_exactly(content: str, thought: str) -> None:
    """Every character arrives, escaped or not."""
    chunk = {"choices": [{"delta": {"content": content, "reasoning": thought}}]}

    for payload in (json.dumps(chunk).encode(), msgspec.json.encode(chunk)):
        found = decode(payload)
        assert not isinstance(found, Bad)
        assert found.choices is not None
        assert found.choices[0].delta is not None
        assert found.choices[0].delta.content == content
        assert found.choices[0].delta.reasoning == thought
