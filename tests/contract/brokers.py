"""A broker for the tests: a Redis or RabbitMQ that is named or answers, or a Redis of our own."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from kombu.connection import Connection

from tests.contract.redis_server import own_redis
from tests.contract.servers import missing

#: A server's URL each.
VARIABLES = {"redis": "TOKENSPOOL_TEST_REDIS_URL", "rabbitmq": "TOKENSPOOL_TEST_RABBITMQ_URL"}
_USUAL = {"redis": "redis://127.0.0.1:6379/0", "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//"}


@dataclass(frozen=True)
class Place:
    """A broker's URL and a queue there that is the test's own."""

    url: str
    queue: str


@contextlib.contextmanager
def broker(kind: str) -> Iterator[Place]:
    """Give a place on a running server, emptied at the end; without any, skip, or fail in CI."""
    named = os.environ.get(VARIABLES[kind])
    url = named or _USUAL[kind]
    with contextlib.ExitStack() as stack:
        if not _answers(url):
            if kind != "redis" or named:
                missing(f"no {kind} answers; name one in {VARIABLES[kind]}")
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenspool-redis-"))
            url = stack.enter_context(own_redis(Path(folder))).url
        place = Place(url, f"tokenspool-test-{secrets.token_hex(4)}")
        stack.callback(_empty, place)
        yield place


def _connected(url: str) -> Any:
    return Connection(url, connect_timeout=3)  # type: ignore[no-untyped-call]


def _answers(url: str) -> bool:
    try:
        with _connected(url) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
            connection.default_channel.close()
    except Exception:  # noqa: BLE001 - each transport has errors of its own
        return False
    return True


def _empty(place: Place) -> None:
    if place.url.startswith("redis"):
        with redis.Redis.from_url(place.url) as client:
            for key in client.scan_iter(f"{place.queue}:*"):
                client.delete(key)
        return
    with _connected(place.url) as connection:
        channel: Any = connection.default_channel
        channel.queue_delete(place.queue)
        channel.exchange_delete(place.queue)
