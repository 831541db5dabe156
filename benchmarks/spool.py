"""The whole pipeline as it comes: claims, journal on SQLite FULL, part files, publishing, folding.

python -P -m benchmarks.spool DATABASE STREAMS
"""

from __future__ import annotations

import cProfile
import os
import sys
from pathlib import Path

import sqlalchemy as sa

from benchmarks.meter import Meter
from tokenspool.database import Database, sqlite_url
from worker.local import RunOptions, run_local
from worker.lock import RunnerLock
from worker.wiring import Tuning

#: Names a file for a profile of the event loop's thread.
PROFILE = "BENCHMARK_PROFILE"


def main(path: Path, streams: int) -> None:
    """Work a database off and tell what it took."""
    database = Database(sqlite_url(path))
    RunnerLock(path).acquire()
    options = RunOptions(tuning=Tuning(database=database, streams=streams))
    meter = Meter()
    if into := os.environ.get(PROFILE):
        with cProfile.Profile() as profile:
            result = run_local(options)
        profile.dump_stats(into)
    else:
        result = run_local(options)
    with database.read() as connection:
        chunks = connection.execute(sa.text("SELECT sum(needed) FROM checkpoint")).scalar_one()
    meter.tell(chunks=chunks)
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
