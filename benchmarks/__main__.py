"""`python -P -m benchmarks`: what a chunk costs, what a kill costs, and how fast enqueueing is.

What a fleet costs, and how it goes with a million jobs, follow at the end.

The same paced server for all, in a process of its own, one event per write. Clients take turns, so
that whatever else the machine does hits all of them. Only CPU time is compared.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.clients import Client, Figures, measure
from simulator import process
from simulator.settings import SimSettings
from tests.crash.goodput import Goodput, goodput_of, loop_command
from tests.crash.stage import Stage

RESULTS = Path(__file__).parent / "results.json"
#: Tokens per second of one stream: a fast model of today.
RATE = 50.0
#: Measured by programs of their own, on PostgreSQL.
APART = ("fleet", "scale")
#: Measured so as well, but only when asked for: it queues a million jobs eight times.
ASKED_FOR = ("claims",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One way to load the clients; the loop gets only as many streams as it keeps up with."""

    name: str
    rate: float
    streams: int
    loop_streams: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done."""

    rounds: int
    loads: tuple[Load, ...]
    goodput_streams: int
    lines: int


FULL = Size(
    rounds=3,
    loads=(
        Load(name="paced", rate=RATE, streams=1000, loop_streams=100, tokens=750),
        Load(name="burst", rate=0.0, streams=200, loop_streams=50, tokens=2000),
    ),
    goodput_streams=1000,
    lines=100_000,
)
QUICK = Size(
    rounds=1,
    loads=(
        Load(name="paced", rate=RATE, streams=300, loop_streams=60, tokens=300),
        Load(name="burst", rate=0.0, streams=100, loop_streams=20, tokens=1000),
    ),
    goodput_streams=100,
    lines=20_000,
)

Rounds = dict[Client, list[Figures]]


def main() -> None:
    """Measure, print a table, and keep the figures beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round, about a minute")
    parts = ["paced", "burst", "kill", "enqueue", *APART, *ASKED_FOR]
    parser.add_argument("--only", choices=parts)
    asked = parser.parse_args()
    if asked.only in {*APART, *ASKED_FOR}:
        _apart(asked.only, quick=asked.quick)
        return
    size = QUICK if asked.quick else FULL
    results: dict[str, object] = {"quick": asked.quick}
    for load in size.loads:
        if asked.only in {None, load.name}:
            rounds = _rounds(load, size.rounds)
            results[load.name] = {c: [asdict(f) for f in found] for c, found in rounds.items()}
            _print(_table(load, rounds))
    if asked.only in {None, "kill"}:
        results["kill"] = found = dict(_kills(size.goodput_streams))
        _print([f"{name:28} {goodput}" for name, goodput in found.items()])
        results["kill"] = {name: asdict(goodput) for name, goodput in found.items()}
    if asked.only in {None, "enqueue"}:
        results["enqueue"] = rate = _enqueue(size.lines)
        _print([f"enqueue: {rate:,.0f} lines/s"])
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    if asked.only is None:
        for name in APART:
            _apart(name, quick=asked.quick)


def _apart(name: str, *, quick: bool) -> None:
    """Run a measurement that needs a PostgreSQL, and prints or keeps its figures itself."""
    command = [sys.executable, "-P", "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
    subprocess.run(command, check=True)
    print(flush=True)


def _rounds(load: Load, count: int) -> Rounds:
    rounds: Rounds = {"loop": [], "spool": [], "bare": []}
    with process.start(SimSettings(rate=load.rate)) as simulator:
        for _ in range(count):
            for client, found in rounds.items():
                streams = load.loop_streams if client == "loop" else load.streams
                with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                    stage = Stage(root=Path(folder), simulator=simulator)
                    found.append(measure(client, stage, streams=streams, tokens=load.tokens))
    return rounds


def _table(load: Load, rounds: Rounds) -> Iterator[str]:
    yield (
        f"{load.name:7} {'streams':>7} {'chunks/CPU-s':>13} {'':>6}"
        f" {'all alive':>13} {'':>6} {'KiB/stream':>11}"
    )
    loop = rounds["loop"]
    for client, found in rounds.items():
        whole, steady = _whole(found), _steady(found)
        yield (
            f"{client:7} {found[0].streams:7,} {whole:13,.0f} {whole / _whole(loop):5.1f}x"
            f" {steady:13,.0f} {steady / _steady(loop):5.1f}x"
            f" {statistics.median(f.kib_per_stream for f in found):11.0f}"
        )


def _whole(found: Sequence[Figures]) -> float:
    return statistics.median(figures.whole for figures in found)


def _steady(found: Sequence[Figures]) -> float:
    """Give the median while all streams were alive; in burst there is no such time."""
    return statistics.median(figures.steady or figures.whole for figures in found)


def _kills(streams: int) -> Iterator[tuple[str, Goodput]]:
    """Yield what a kill in the middle of the work costs, by hand and with us."""
    with process.start(SimSettings(rate=RATE)) as simulator:
        for name, lengths, slots in (
            ("8 streams of 40", [200] * 40, 8),
            (f"{streams} streams", [400] * streams, streams),
        ):
            needed = sum(lengths)
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                stage = Stage(root=Path(folder), simulator=simulator)
                stage.enqueue(stage.prompts(lengths))
                command = stage.run_command("--streams", str(slots))
                yield name, goodput_of(stage, command, needed=needed, kills=[0.5])
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            stage = Stage(root=Path(folder), simulator=simulator)
            prompts = stage.prompts([200] * 8)
            command = loop_command(stage, prompts, streams=8)
            yield "8 streams by hand", goodput_of(stage, command, needed=1600, kills=[0.5])


def _enqueue(lines: int) -> float:
    """Give the lines per second of a first enqueue."""
    command = [sys.executable, "-P", "-m", "benchmarks.enqueue", "--lines", str(lines)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"([\d,]+) lines/s", said)
    if found is None:
        raise SystemExit(f"benchmarks.enqueue said something else: {said}")
    return float(found[1].replace(",", ""))


def _print(lines: Sequence[str] | Iterator[str]) -> None:
    for line in lines:
        print(line, flush=True)
    print(flush=True)


if __name__ == "__main__":
    main()
