"""A worker with a broker and a lease of the test's own: `… DB LEASE_S STREAMS BROKER QUEUE`."""

from __future__ import annotations

import sys

from cli.logs import log_to_stderr
from tokenspool.database import Database
from worker.app import work_with_broker
from worker.broker import Broker
from worker.fleet import FleetOptions
from worker.wiring import Tuning

if __name__ == "__main__":
    url, lease_s, streams, broker, queue = sys.argv[1:]
    log_to_stderr(debug=True)
    tuning = Tuning(database=Database(url), streams=int(streams))
    options = FleetOptions(tuning=tuning, lease_s=float(lease_s))
    result = work_with_broker(options, Broker(url=broker, queue=queue))
    sys.exit(result.exit_code)
