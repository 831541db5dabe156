"""Roots of outputs: one name for one place, and no secrets in it."""

from __future__ import annotations

import pytest

from tokenspool.errors import UsageError
from tokenspool.names import MAX_NAME_BYTES
from tokenspool.roots import MAX_PREFIX_BYTES, checked_url, is_url


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a b/ü%20", "s3://bucket/a b/ü%20"),
        ("gs://bucket/deep/er//", "gs://bucket/deep/er"),
        ("az://container/x", "az://container/x"),
    ],
)
def test_a_place_has_one_name(url: str, root: str) -> None:
    """A slash at the end says nothing; everything else is taken as it is."""
    assert checked_url(url) == root
    assert checked_url(root) == root


@pytest.mark.parametrize(
    "url",
    [
        "http://bucket/x",
        "S4://bucket/x",
        "memory:///x",
        "file:///etc",
        "s3://b",
        "s3:///x",
        "s3://..",
        "s3://a..b/x",
        "s3://key:secret@bucket/x",
        "s3://secret@bucket",
        "s3://bucket/x?secret",
        "s3://bucket/x#secret",
        "s3://bucket:9000/x",
        "s3://[bucket/x",
        "s3://bucket//x",
        "s3://bucket/./x",
        "s3://bucket/../x",
        "s3://bucket/ x",
        "s3://bucket/a\\b",
        "s3://bucket/a\nb",
        "s3://bucket/" + "ü" * MAX_PREFIX_BYTES,
    ],
)
def test_what_is_no_place_or_could_hold_a_secret_is_refused(url: str) -> None:
    """In one sentence that does not repeat it."""
    with pytest.raises(UsageError) as refused:
        checked_url(url)

    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_longest_key_is_one_that_every_store_takes() -> None:
    """Prefix, slash and name: 1,024 bytes together."""
    prefix = checked_url("s3://bucket/" + "x" * MAX_PREFIX_BYTES).partition("bucket/")[2]

    assert len(prefix) + 1 + MAX_NAME_BYTES == 1024


def test_a_folder_is_no_url() -> None:
    """Whatever it is called."""
    assert not is_url("/srv/s3:/x")
    assert is_url("s3://x/y")
