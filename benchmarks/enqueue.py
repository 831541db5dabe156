"""How fast an input becomes jobs: parse, check and insert short lines into a fresh database.

`python -P -m benchmarks.enqueue [--lines N] [--db URL]`; without a URL a SQLite file below the
folder we stand in, since memory file systems make fsync look free.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from tokenspool import migrate
from tokenspool.database import Database, sqlite_url
from tokenspool.inputs import InputDefaults, read_inputs
from tokenspool.store.intake import Enqueued, JobOptions, enqueue

_WORDS = "Write a long and unhurried story about the keeper of lighthouse number"


def _resident_mb() -> float:
    """Give the most memory that this process ever had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform == "linux" else peak / 1024**2


def write_input(path: Path, lines: int) -> None:
    """Write so many short lines."""
    with path.open("w") as file:
        for number in range(lines):
            line = {"custom_id": f"story-{number:07}", "prompt": f"{_WORDS} {number}."}
            file.write(json.dumps(line) + "\n")


def take(database: Database, path: Path) -> tuple[Enqueued, float, float]:
    """Enqueue them; give the answer and the seconds of the clock and of the CPU."""
    began, busy = time.perf_counter(), time.process_time()
    lines = read_inputs([path], InputDefaults(batch="bench", model="m"), warn=print)
    options = JobOptions(base_url="http://127.0.0.1:8000/v1")
    answer = enqueue(database, "bench", "/nowhere", lines, options)
    return answer, time.perf_counter() - began, time.process_time() - busy


def main() -> None:
    """Print speed and growth of memory, for a first time and for the same input again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--db", help="an empty database; SQLite in a temporary folder without")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "prompts.jsonl"
        write_input(path, asked.lines)
        database = Database(asked.db or sqlite_url(Path(folder) / "spool.db"))
        migrate.upgrade(database)
        before = _resident_mb()
        for what in ("new", "again"):
            answer, took, busy = take(database, path)
            print(
                f"{what:6} {answer.new:>8} new {answer.same:>8} same  {took:6.2f} s"
                f"  {asked.lines / took:>9,.0f} lines/s  {asked.lines / busy:>9,.0f} lines/CPU-s"
                f"  memory +{_resident_mb() - before:.0f} MB"
            )
        database.close()


if __name__ == "__main__":
    main()
