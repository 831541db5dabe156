"""What a chunk costs a worker of a fleet, on PostgreSQL, beside the embedded runner on SQLite.

`python -P -m benchmarks.fleet [--quick]`. Same server, same run, taking turns, so that whatever
else the machine does hits all of them. CPU time of the workers is compared; that of PostgreSQL's
backends is shown beside it, since it is spent elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from benchmarks.clients import LOOK_S, Watch, cpu_s, measure
from simulator import process
from simulator.process import Simulator
from simulator.settings import SimSettings
from tests.contract.conftest import _made
from tests.contract.servers import postgresql
from tests.crash.fleet_stage import FleetStage, fleet_stage
from tests.crash.stage import Stage, wait_until

RESULTS = Path(__file__).parent / "results-fleet.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done."""

    rounds: int
    streams: int
    tokens: int


FULL = Size(rounds=3, streams=600, tokens=750)
QUICK = Size(rounds=1, streams=200, tokens=400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the chunks of one run took."""

    chunks: int
    #: Of all workers together, from before the first claim to the last file.
    worker_s: float
    #: Of PostgreSQL's backends; None where there is none, or it is on another machine.
    postgres_s: float | None
    #: Chunks for a second of the workers' CPU while all streams were alive.
    steady: float | None

    @property
    def whole(self) -> float:
        """Chunks for a second of the workers' CPU."""
        return self.chunks / self.worker_s


def embedded(root: Path, simulator: Simulator, *, streams: int, tokens: int) -> Cost:
    """Measure `tokenspool run`."""
    found = measure("spool", Stage(root=root, simulator=simulator), streams=streams, tokens=tokens)
    return Cost(chunks=found.chunks, worker_s=found.cpu_s, postgres_s=None, steady=found.steady)


def fleet(
    root: Path, server: sa.URL, simulator: Simulator, *, streams: int, tokens: int, workers: int
) -> Cost:
    """Measure so many workers with so many streams each."""
    with _made(server) as url, fleet_stage(root, url, simulator) as stage:
        running = [stage.command_worker("--streams", str(streams)) for _ in range(workers)]
        wait_until(lambda: len(stage.rows("SELECT id FROM worker")) == workers)
        before, backends_before = sum(cpu_s(one.pid) for one in running), _backends(stage)
        watch = Watch(streams * workers)
        simulator.reset()  # before they are there: what is live then would be forgotten
        stage.lengths = [tokens] * streams * workers
        stage.enqueue(stage.prompts(stage.lengths))
        while not stage.is_done():
            if workers == 1:
                watch.look(running[0], stage)
            time.sleep(LOOK_S)
        worker_s = sum(cpu_s(one.pid) for one in running) - before
        backends = _backends(stage)
    spent = [cpu - backends_before.get(pid, 0.0) for pid, cpu in backends.items()]
    return Cost(
        chunks=tokens * streams * workers,
        worker_s=worker_s,
        postgres_s=sum(spent) or None,
        steady=watch.steady(),
    )


def _backends(stage: FleetStage) -> dict[int, float]:
    """Give the CPU time of each backend that serves a worker, if they are on this machine."""
    rows = stage.rows(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    found = {}
    for row in rows:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{row['pid']}/comm").read_text().startswith("postgres"):
                found[row["pid"]] = cpu_s(row["pid"])
    return found


def run(size: Size) -> dict[str, list[Cost]]:
    """Let them take turns."""
    found: dict[str, list[Cost]] = {"embedded": [], "worker": [], "half": [], "two halves": []}
    half = size.streams // 2
    with postgresql() as server, process.start(SimSettings(rate=50)) as simulator:
        for _ in range(size.rounds):
            for name, costs in found.items():
                with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                    root = Path(folder)
                    if name == "embedded":
                        cost = embedded(root, simulator, streams=size.streams, tokens=size.tokens)
                    else:
                        cost = fleet(
                            root,
                            server,
                            simulator,
                            streams=size.streams if name == "worker" else half,
                            tokens=size.tokens,
                            workers=2 if name == "two halves" else 1,
                        )
                costs.append(cost)
    return found


def table(found: dict[str, list[Cost]], size: Size) -> Iterator[str]:
    """Give the lines to print."""
    yield f"fleet, {size.streams} streams of {size.tokens} tokens at 50 a second; load {_load()}"
    yield f"{'':12} {'chunks/CPU-s':>13} {'all alive':>10} {'PostgreSQL CPU-s per million':>29}"
    for name, costs in found.items():
        steady = [cost.steady for cost in costs if cost.steady]
        backends = [c.postgres_s / c.chunks * 1e6 for c in costs if c.postgres_s]
        yield (
            f"{name:12} {_whole(costs):13,.0f}"
            f" {statistics.median(steady) if steady else 0:10,.0f}"
            f" {statistics.median(backends) if backends else 0:29.1f}"
        )
    ratio = _whole(found["worker"]) / _whole(found["embedded"])
    two = _whole(found["half"]) / _whole(found["two halves"])
    yield f"worker / embedded: {ratio:.2f} (wanted: 0.8 or more)"
    yield f"CPU per chunk, two processes / one at half load: {two:.2f} (wanted: 0.9 to 1.1)"


def _whole(costs: Sequence[Cost]) -> float:
    return statistics.median(cost.whole for cost in costs)


def _load() -> str:
    return " ".join(f"{part:.1f}" for part in os.getloadavg())


def main() -> None:
    """Measure, print a table, and keep the figures beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    size = QUICK if parser.parse_args().quick else FULL
    found = run(size)
    for line in table(found, size):
        print(line, flush=True)
    figures = {name: [asdict(cost) for cost in costs] for name, costs in found.items()}
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
