"""Commands and runs that kill themselves at a fault point, each in a process of its own.

`python -P -m tests.crash.nursery` imports everything once and forks a child for every line that it
reads, `DATABASE POINT VISIT` or `tokenspool ARGUMENT…`. It answers with the child's exit status, -9
for a SIGKILL.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Slots of a run: fewer than jobs, so that claims happen again and again.
STREAMS = 4
#: Says that no fault is wanted.
NOWHERE = "nowhere"
#: Begins a line with arguments of the command line.
COMMAND = "tokenspool"
#: Names a shorter length from which on a text is sent to an object store in parts.
ONE_PUT_BYTES = "TEST_ONE_PUT_BYTES"


@dataclass(frozen=True, slots=True)
class Nursery:
    """The process that forks; used by the tests."""

    process: subprocess.Popen[str]

    def run(self, database: Path, *, point: str = NOWHERE, visit: int = 1) -> int:
        """Work a database off, or until the `visit`-th time at `point`; give the exit status."""
        return self._fork(str(database), point, str(visit))

    def command(self, *arguments: str | Path) -> None:
        """Run a command that must succeed."""
        assert self._fork(COMMAND, *map(str, arguments)) == 0

    def _fork(self, *words: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(shlex.join(words), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    """Start one; it ends with the block."""
    command = [sys.executable, "-P", "-m", "tests.crash.nursery"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Nursery(process)


def _work(database: Path, point: str, visit: int) -> int:
    """Run like `tokenspool run` without input, with a fault."""
    from pipeline.outputs import objects  # noqa: PLC0415 - in the forked process
    from tokenspool.database import Database, sqlite_url  # noqa: PLC0415
    from worker.local import RunOptions, run_local  # noqa: PLC0415
    from worker.lock import RunnerLock  # noqa: PLC0415
    from worker.wiring import Tuning  # noqa: PLC0415

    visits = itertools.count(1)

    def fault(name: str) -> None:
        if name == point and next(visits) == visit:
            os.kill(os.getpid(), signal.SIGKILL)

    if limit := os.environ.get(ONE_PUT_BYTES):
        objects.ONE_PUT_BYTES = int(limit)
    lock = RunnerLock(database)
    lock.acquire()
    opened = Database(sqlite_url(database))
    tuning = Tuning(database=opened, streams=STREAMS)
    result = run_local(RunOptions(tuning=tuning, fault=fault))
    opened.close()
    if result.reason:
        sys.stderr.write(f"{result.reason}\n")
    return result.exit_code


def _child(line: str) -> int:
    from cli.main import main as command_line  # noqa: PLC0415

    words = shlex.split(line)
    try:
        if words[0] == COMMAND:
            return command_line(words[1:])
        database, point, visit = words
        return _work(Path(database), point, int(visit))
    except BaseException:  # noqa: BLE001 - said whole; the process ends here in any case
        traceback.print_exc()
        return 70


def main() -> None:
    """Fork a child for every line."""
    # Once, for all children.
    for name in ("cli.enqueue", "worker.local"):
        importlib.import_module(name)

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_child(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
