"""Servers that several folders of tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3 import S3, s3_server


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3]:
    """Run an S3 server."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """Give a bucket of one's own, with what its users need in the environment."""
    bucket = s3_process.fresh()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    yield bucket
    bucket.calm()
