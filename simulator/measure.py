"""`python -m simulator.measure`: how many events a second it sends, on how much of a core.

The reader is another process, as small as a reader can be: it counts ends of events. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from simulator.process import start
from simulator.running import loop_factory
from simulator.settings import SimSettings

#: Tokens that no measurement lives to see the end of.
_ENDLESS = 1_000_000_000
_BODY = b'{"model":"simulated","stream":true,"messages":[{"role":"user","content":"%d"}]}'
_REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\ncontent-length: %d\r\n\r\n%b"
#: So many connections are opened at a time.
_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a reader saw in a stretch of time."""

    seconds: float
    events: int
    reads: int
    megabytes: float
    cpu_s: float
    server_cpu_s: float


class _Reader(asyncio.Protocol):
    """Asks for one stream and counts what comes."""

    events = reads = size = 0

    def __init__(self, number: int) -> None:
        body = _BODY % number
        self._request = _REQUEST % (len(body), body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self.events += data.count(b"\n\n\r\n")
        self.reads += 1
        self.size += len(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m simulator.measure")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50.0, help="per stream; 0: burst")
    parser.add_argument("--seconds", type=float, default=5.0)
    told = parser.parse_args(arguments)
    settings = SimSettings(rate=told.rate, tokens=_ENDLESS)
    context = multiprocessing.get_context("spawn")
    with start(settings) as simulator, context.Pool(1) as pool:
        asked = (simulator.base_url, simulator.pid, told.streams, told.seconds)
        seen = pool.apply(_read, asked)
        pool.close()
        pool.join()
    sys.stdout.write(_line(seen, streams=told.streams, rate=told.rate))
    return 0


def _line(seen: Seen, *, streams: int, rate: float) -> str:
    share, a_second = seen.server_cpu_s / seen.seconds, seen.events / seen.seconds
    wanted = f"of {streams * rate:,.0f} wanted" if rate else "in burst"
    return (
        f"{streams} streams: {a_second:,.0f} events/s {wanted}, {seen.reads / seen.seconds:,.0f} "
        f"reads/s, {seen.megabytes / seen.seconds:,.1f} MB/s; server {share:.0%} of a core "
        f"({a_second / max(share, 0.001):,.0f} events per CPU-second), reader "
        f"{seen.cpu_s / seen.seconds:.0%}\n"
    )


def _read(base_url: str, pid: int, streams: int, seconds: float) -> Seen:
    """Read so many streams for a while, in this process."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_watch(base_url, pid, streams, seconds))


async def _watch(base_url: str, pid: int, streams: int, seconds: float) -> Seen:
    url = urllib.parse.urlsplit(base_url)
    readers = [_Reader(number) for number in range(streams)]
    transports: list[asyncio.Transport] = []
    for at in range(0, streams, _AT_ONCE):
        group = readers[at : at + _AT_ONCE]
        transports += await asyncio.gather(*(_open(url, reader) for reader in group))
    # The streams that were first have said something by now; from here on all speak.
    await asyncio.sleep(1.0)
    before, began = _counts(readers, pid), time.monotonic()
    await asyncio.sleep(seconds)
    after, ended = _counts(readers, pid), time.monotonic()
    for transport in transports:
        transport.abort()
    events, reads, size, cpu_s, server_cpu_s = (b - a for a, b in zip(before, after, strict=True))
    return Seen(
        seconds=ended - began,
        events=int(events),
        reads=int(reads),
        megabytes=size / 1e6,
        cpu_s=cpu_s,
        server_cpu_s=server_cpu_s,
    )


async def _open(url: urllib.parse.SplitResult, reader: _Reader) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: reader, url.hostname or "", url.port or 0)
    return transport


def _counts(readers: list[_Reader], pid: int) -> tuple[float, ...]:
    return (
        sum(reader.events for reader in readers),
        sum(reader.reads for reader in readers),
        sum(reader.size for reader in readers),
        time.process_time(),
        _cpu_seconds(pid),
    )


def _cpu_seconds(pid: int) -> float:
    """Give the CPU time of a process so far."""
    # Behind the name, which may contain anything but ends with the last parenthesis.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
