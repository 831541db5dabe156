"""A RabbitMQ node of the test's own, on ports that were free: it may be killed and started again.

Its queues outlive a kill, for its data stay in the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.contract.brokers import _answers
from tests.contract.servers import missing

#: It takes five to ten seconds; a machine under other load gets the rest.
_PATIENCE_S = 120.0
#: What Debian puts on the PATH starts it as the user of the system's node, or not at all.
_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
vm_memory_high_watermark.absolute = 512MB
raft.wal_max_size_bytes = 16000000
"""


@dataclass
class RabbitServer:
    """A node that can be killed and started again."""

    binary: str
    folder: Path
    port: int
    #: Where nodes of a cluster would meet; there is none.
    dist_port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Start it on what it has kept; returns once it answers."""
        (self.folder / "rabbitmq.conf").write_text(_CONFIGURATION.format(port=self.port))
        (self.folder / "plugins").write_text("[].\n")
        with (self.folder / "said").open("ab") as said:
            self._process = subprocess.Popen(
                [self.binary],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                # The script has children: all of them are to be killed.
                start_new_session=True,
            )
        until = time.monotonic() + _PATIENCE_S
        while not _answers(self.url):
            assert self._process.poll() is None, (self.folder / "said").read_text()
            assert time.monotonic() < until, "the RabbitMQ did not start"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _environment(self) -> dict[str, str]:
        own = {
            # The cookie is made there: no other node's is read.
            "HOME": self.folder,
            "RABBITMQ_NODENAME": f"tokenspool-{self.port}@localhost",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self.dist_port,
            "RABBITMQ_MNESIA_BASE": self.folder / "data",
            "RABBITMQ_LOG_BASE": self.folder / "log",
            "RABBITMQ_PID_FILE": self.folder / "pid",
            "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": self.folder / "none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
        }
        return {"PATH": os.environ["PATH"]} | {name: str(value) for name, value in own.items()}


@contextlib.contextmanager
def own_rabbitmq(folder: Path) -> Iterator[RabbitServer]:
    """Give a running node; where there is none to run, skip at home and fail in CI."""
    binary = str(_SCRIPT) if _SCRIPT.exists() else shutil.which("rabbitmq-server")
    if binary is None:
        missing("there is no rabbitmq-server to start")
    folder.mkdir()
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, dist_port = one.getsockname()[1], other.getsockname()[1]
    server = RabbitServer(str(binary), folder, port, dist_port)
    try:
        server.start()
        yield server
    finally:
        server.kill()
