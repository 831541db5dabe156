"""Workers with a lease of the test's own, which may kill themselves at fault points.

`python -P -m tests.crash.fleet_worker TOLD`, where TOLD is a JSON object of `Told`. Without points
it is one worker. With points it imports everything once and forks one worker for each, a few at a
time; it answers with a JSON object of their exit statuses, -9 for a SIGKILL.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

import msgspec

from cli.logs import log_to_stderr
from pipeline.ports import Fault, no_fault
from tokenspool.database import Database
from worker.fleet import FleetOptions, work_in_fleet
from worker.wiring import Tuning

#: Each has a few connections, and a PostgreSQL as it comes has 100 for everybody.
AT_ONCE = 4


class Told(msgspec.Struct, kw_only=True):
    """What such a process is told."""

    url: str
    streams: int
    lease_s: float = 45.0
    budget_bytes: int = 64 * 1024 * 1024
    points: tuple[str, ...] = ()
    #: At which of its visits to its point each worker dies.
    visit: int = 1


def _work(told: Told, fault: Fault = no_fault) -> int:
    tuning = Tuning(
        database=Database(told.url), streams=told.streams, budget_bytes=told.budget_bytes
    )
    result = work_in_fleet(FleetOptions(tuning=tuning, lease_s=told.lease_s, fault=fault))
    if result.reason:
        sys.stderr.write(f"{result.reason}\n")
    return result.exit_code


def _deadly(point: str, visit: int) -> Fault:
    visits = itertools.count(1)

    def fault(name: str) -> None:
        if name == point and next(visits) == visit:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


def _die(told: Told) -> dict[str, int]:
    """Let a worker die at each point; give how each ended."""
    living: dict[int, str] = {}
    ended: dict[str, int] = {}
    waiting = list(reversed(told.points))
    while waiting or living:
        while waiting and len(living) < AT_ONCE:
            point = waiting.pop()
            child = os.fork()
            if child == 0:
                os._exit(_work(told, _deadly(point, told.visit)))
            living[child] = point
        child, status = os.wait()
        ended[living.pop(child)] = os.waitstatus_to_exitcode(status)
    return ended


def main() -> int:
    """Work, or die again and again."""
    told = msgspec.json.decode(sys.argv[1], type=Told)
    log_to_stderr(debug=True)
    if not told.points:
        return _work(told)
    sys.stdout.write(msgspec.json.encode(_die(told)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
