"""How enqueueing, `status`, dispatching and claims go with a thousand and with a million jobs.

`python -P -m benchmarks.scale [--quick] [--docs]`. Each size has a database and a process of its
own. With `--docs` the figures and the plot of the documentation are written anew.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypedDict

from benchmarks.enqueue import take, write_input
from benchmarks.meter import resident
from benchmarks.plot import Line, plot
from tests.contract.conftest import _made
from tests.contract.servers import postgresql
from tokenspool import migrate
from tokenspool.database import Database, sqlite_url
from tokenspool.store import claims, dispatching, reads

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results-scale.json"
DOCS = ROOT / "docs"
FULL = (1_000, 10_000, 100_000, 1_000_000)
QUICK = (1_000, 20_000)
#: What a worker claims at once, and how often it is measured.
CLAIM, CLAIMS = 100, 10
#: What a dispatcher offers to the fleet at once, and how often it is measured.
FILL, FILLS = 50, 10
STATUSES = 15
Kind = Literal["sqlite", "postgresql"]
KINDS: tuple[Kind, ...] = ("sqlite", "postgresql")


class Figures(TypedDict):
    """What one database with so many jobs gave."""

    kind: str
    jobs: int
    enqueue_per_s: float
    #: Above what the process had before; the input is read, never held.
    growth_mib: float
    status_ms: float
    #: Into the window of a fleet, each fill committed; only PostgreSQL has one.
    dispatch_per_s: float | None
    claim_per_s: float


def one(kind: str, url: str, jobs: int) -> Figures:
    """Measure one size in an empty database."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "prompts.jsonl"
        write_input(path, jobs)
        database = Database(url)
        migrate.upgrade(database)
        before = resident()
        _, took, _ = take(database, path)
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    statuses = list(_statuses(database))
    filled = list(_fills(database)) if kind == "postgresql" else []
    claimed = list(_claims(database, jobs))
    database.close()
    return Figures(
        kind=kind,
        jobs=jobs,
        enqueue_per_s=jobs / took,
        growth_mib=growth / 2**20,
        status_ms=1000 * statistics.median(statuses),
        dispatch_per_s=FILL / statistics.median(filled) if filled else None,
        claim_per_s=CLAIM / statistics.median(claimed),
    )


def _statuses(database: Database) -> Iterator[float]:
    for _ in range(STATUSES):
        began = time.perf_counter()
        with database.read() as connection:
            reads.status(connection)
        yield time.perf_counter() - began


def _fills(database: Database) -> Iterator[float]:
    """Widen the window step by step: what was dispatched before stays in it."""
    for number in range(1, FILLS + 1):
        began = time.perf_counter()
        with database.write() as connection:
            hints = dispatching.fill_window(connection, lookahead=number * FILL)
        yield time.perf_counter() - began
        assert len(hints) == FILL  # noqa: S101 - a fill that finds none would be a fast one


def _claims(database: Database, jobs: int) -> Iterator[float]:
    for _ in range(min(CLAIMS, jobs // CLAIM)):
        began = time.perf_counter()
        with database.write() as connection:
            found = claims.claim_ready(connection, worker="w", endpoint_id=1, limit=CLAIM)
        yield time.perf_counter() - began
        assert len(found) == CLAIM  # noqa: S101 - a claim that finds none would be a fast one


def run(sizes: tuple[int, ...]) -> list[Figures]:
    """Measure every size on every kind of database."""
    found: list[Figures] = []
    with postgresql() as server:
        for jobs in sizes:
            for kind in KINDS:
                with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                    if kind == "sqlite":
                        found.append(_apart(kind, sqlite_url(Path(folder) / "spool.db"), jobs))
                    else:
                        with _made(server) as url:
                            found.append(_apart(kind, url, jobs))
                print(line_of(found[-1]), flush=True)
    return found


def _apart(kind: Kind, url: str, jobs: int) -> Figures:
    """Measure in a process of its own, whose memory is nobody else's."""
    command = [sys.executable, "-P", "-m", "benchmarks.scale", "--one", kind, url, str(jobs)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    figures: Figures = json.loads(said.splitlines()[-1])
    return figures


def line_of(found: Figures) -> str:
    """Give a line to print."""
    dispatched = found["dispatch_per_s"]
    fills = "" if dispatched is None else f"  dispatch {dispatched:7,.0f} jobs/s"
    return (
        f"{found['kind']:10} {found['jobs']:9,} jobs  enqueue {found['enqueue_per_s']:8,.0f}/s"
        f" (+{found['growth_mib']:.0f} MiB)  status {found['status_ms']:6.1f} ms"
        f"  claim {found['claim_per_s']:7,.0f} jobs/s{fills}"
    )


def picture(found: list[Figures]) -> str:
    """Draw claims, dispatching and `status` over the number of jobs."""
    lines = []
    for kind in KINDS:
        mine = [one for one in found if one["kind"] == kind]
        lines.append(
            Line(f"claims per second, {kind}", [(f["jobs"], f["claim_per_s"]) for f in mine])
        )
        fills = [(f["jobs"], rate) for f in mine if (rate := f["dispatch_per_s"]) is not None]
        if fills:
            lines.append(Line(f"dispatched per second, {kind}", fills))
        lines.append(Line(f"status in ms, {kind}", [(f["jobs"], f["status_ms"]) for f in mine]))
    return plot(lines, across="jobs in the database")


def main() -> None:
    """Measure, print a line for each size, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "URL", "JOBS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        kind, url, jobs = asked.one
        print(json.dumps(one(kind, url, int(jobs))))
        return
    load = os.getloadavg()[0]
    found = run(QUICK if asked.quick else FULL)
    print(f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    text = json.dumps(found, indent=2) + "\n"
    RESULTS.write_text(text)
    if asked.docs:
        (DOCS / "scale.json").write_text(text)
        (DOCS / "scale.svg").write_text(picture(found))


if __name__ == "__main__":
    main()
