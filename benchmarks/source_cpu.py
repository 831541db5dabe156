"""What a chunk costs: our source beside the SDK's own loop, on the same streams.

    python -P -m benchmarks.source_cpu [--streams 500] [--tokens 500] [--rate 50]

A simulator sends one event per write. Each reader runs in a process of its own; counted are the
chunks per second of its CPU time, once all streams are open (paced) or over the whole run (burst),
and the memory that a live stream adds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import uvloop

from pipeline.ports import Ask, Delta, Opened
from pipeline.sources.chat import ChatSource
from tokenspool.model import Endpoint
from worker.clock import Clock, Rhythm

MODEL = "sim-1"
BURST_STREAMS, BURST_TOKENS = 50, 4000
PAGE = resource.getpagesize()


@dataclass(slots=True)
class Count:
    """What the streams of a process have received."""

    opened: int = 0
    chunks: int = 0
    #: Wake-ups that brought them; the SDK's loop has one for each.
    reads: int = 0


Reader = Callable[[str, int, Count], Awaitable[None]]


def _body(number: int) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"Tell tale {number}."}]}


async def _with_sdk(url: str, streams: int, count: Count) -> None:
    """Read as the SDK's documentation shows."""
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)

    async def read(number: int) -> None:
        stream = await client.chat.completions.create(**_body(number), stream=True)  # type: ignore[call-overload]
        count.opened += 1
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                count.chunks += 1
                count.reads += 1

    await asyncio.gather(*(read(n) for n in range(streams)))
    await client.close()


async def _with_source(url: str, streams: int, count: Count, *, tick_s: float) -> None:
    """Read with our source, at a fixed tick."""
    clock = Clock(Rhythm(tick_s=tick_s, beat_s=0.05))
    source = ChatSource(Endpoint(url=url, model=MODEL), api_key="none", pace=clock)

    async def beat() -> None:
        while True:
            await clock.beat()

    async def read(number: int) -> None:
        async with contextlib.aclosing(source.stream(Ask(body=_body(number)))) as events:
            async for event in events:
                if type(event) is Delta:
                    count.chunks += event.chunks
                    count.reads += 1
                elif type(event) is Opened:
                    count.opened += 1

    beating = asyncio.ensure_future(beat())
    await asyncio.gather(*(read(n) for n in range(streams)))
    beating.cancel()
    await source.close()


READERS: dict[str, Reader] = {
    "sdk": _with_sdk,
    "source 0.2 s": lambda u, n, c: _with_source(u, n, c, tick_s=0.2),
    "source 0.5 s": lambda u, n, c: _with_source(u, n, c, tick_s=0.5),
}


async def _measure(reader: Reader, url: str, streams: int, tokens: int) -> None:
    count = Count()
    begun, before = time.process_time(), _memory()
    running = asyncio.ensure_future(reader(url, streams, count))
    while count.opened < streams and not running.done():  # noqa: ASYNC110 - as little as can be
        await asyncio.sleep(0.05)
    # Past the opening, and before the first stream ends: four fifths of the tokens.
    start = (time.process_time(), count.chunks, count.reads)
    live = 0
    while not running.done() and count.chunks < 0.8 * streams * tokens:
        live = max(live, _memory())
        await asyncio.sleep(0.1)
    cpu, chunks, reads = time.process_time(), count.chunks, count.reads
    await running
    found = {
        "chunks": count.chunks,
        "cpu_s": time.process_time() - begun,
        "steady_cpu_s": cpu - start[0],
        "steady_chunks": chunks - start[1],
        "steady_reads": reads - start[2],
        "stream_bytes": (live - before) // streams,
    }
    sys.stdout.write(json.dumps(found) + "\n")


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _run(name: str, url: str, streams: int, tokens: int) -> dict[str, float]:
    command = [sys.executable, "-P", "-m", "benchmarks.source_cpu", "--reader", name]
    command += ["--url", url, "--streams", str(streams), "--tokens", str(tokens)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def _simulator(rate: float, tokens: int) -> Iterator[str]:
    command = [sys.executable, "-P", "-m", "simulator"]
    command += ["--rate", str(rate), "--tokens", str(tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


def _tell(name: str, chunks_per_s: float, base: float, more: str = "") -> None:
    print(f"  {name:<13}{chunks_per_s:>9,.0f} chunks/CPU-s{chunks_per_s / base:>7.1f} x{more}")


def _paced(streams: int, tokens: int, rate: float) -> None:
    print(f"paced: {streams} streams of {tokens} tokens at {rate:g}/s")
    with _simulator(rate, tokens) as url:
        base = 0.0
        for name in READERS:
            found = _run(name, url, streams, tokens)
            speed = found["steady_chunks"] / found["steady_cpu_s"]
            base = base or speed
            each = found["steady_chunks"] / found["steady_reads"]
            memory = found["stream_bytes"] / 1024
            _tell(name, speed, base, f"{each:>7.1f} chunks a read{memory:>7.1f} KiB a stream")


def _burst() -> None:
    print(f"burst: {BURST_STREAMS} streams of {BURST_TOKENS} tokens, as fast as they are read")
    with _simulator(0, BURST_TOKENS) as url:
        base = 0.0
        for name in ("sdk", "source 0.2 s"):
            found = _run(name, url, BURST_STREAMS, BURST_TOKENS)
            speed = found["chunks"] / found["cpu_s"]
            base = base or speed
            _tell(name, speed, base)


def main() -> None:
    """Run all readers, or in a child process the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.reader:
        uvloop.run(_measure(READERS[told.reader], told.url, told.streams, told.tokens))
        return
    _paced(told.streams, told.tokens, told.rate)
    _burst()


if __name__ == "__main__":
    main()
