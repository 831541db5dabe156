"""A worker of a fleet with a lease of the test's own: `python -P -m … DATABASE LEASE_S STREAMS`."""

from __future__ import annotations

import sys

from cli.logs import log_to_stderr
from tokenspool.database import Database
from worker.fleet import FleetOptions, work_in_fleet
from worker.wiring import Tuning

if __name__ == "__main__":
    url, lease_s, streams = sys.argv[1:]
    log_to_stderr(debug=True)
    tuning = Tuning(database=Database(url), streams=int(streams))
    result = work_in_fleet(FleetOptions(tuning=tuning, lease_s=float(lease_s)))
    if result.reason:
        sys.stderr.write(f"{result.reason}\n")
    sys.exit(result.exit_code)
