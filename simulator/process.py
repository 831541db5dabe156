"""A simulator in a process of its own, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from simulator.settings import SimSettings

#: Importing and binding take well under a second; a loaded machine gets this long to stop.
_STOP_S = 10.0
_ASK_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """A simulator that is running."""

    #: What clients are given: `http://127.0.0.1:PORT/v1`.
    base_url: str
    pid: int

    def stats(self) -> dict[str, Any]:
        """Give what it counted; see docs/simulator.md."""
        stats: dict[str, Any] = json.loads(self._ask("/sim/stats"))
        return stats

    def requests(self, last: int = 1000) -> list[dict[str, Any]]:
        """Give the records of the last chat requests, the newest last."""
        records: list[dict[str, Any]] = json.loads(self._ask(f"/sim/requests?last={last}"))
        return records

    def text(self, body: Mapping[str, object], *, tokens: int | None = None) -> str:
        """Give the text that a whole, undisturbed answer to a chat request has."""
        headers = {} if tokens is None else {"x-sim-tokens": str(tokens)}
        return self._ask("/sim/text", json.dumps(body).encode(), headers=headers).decode()

    def reset(self) -> None:
        """Forget all counts and records; the next request is the first."""
        self._ask("/sim/reset", b"")

    def _ask(
        self, path: str, body: bytes | None = None, *, headers: Mapping[str, str] | None = None
    ) -> bytes:
        url = self.base_url.removesuffix("/v1") + path
        request = urllib.request.Request(url, data=body, headers=dict(headers or {}))  # noqa: S310 - our own
        with urllib.request.build_opener(_no_proxy()).open(request, timeout=_ASK_S) as answer:
            data: bytes = answer.read()
        return data


@contextlib.contextmanager
def start(settings: SimSettings | None = None) -> Iterator[Simulator]:
    """Run a simulator while the block runs. It also ends when this process is killed.

    Raises RuntimeError, with what it said, if it does not start.
    """
    told = msgspec.json.encode(settings or SimSettings()).decode()
    # The safe path: a folder called `simulator` in the current one is not ours.
    command = (sys.executable, "-P", "-m", "simulator", "--settings", told, "--with-parent")
    with subprocess.Popen(  # noqa: S603 - our own command
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Simulator(base_url=_base_url(process), pid=process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _base_url(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline().strip() if process.stdout else ""
    if not line.startswith("http"):
        raise RuntimeError(f"the simulator did not start: it said {line!r}; more is on stderr")
    return line


def _no_proxy() -> urllib.request.ProxyHandler:
    """Keep a proxy from the environment out: the simulator is on this machine."""
    return urllib.request.ProxyHandler({})
