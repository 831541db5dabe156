"""The supervisor: children that die are replaced, and all of them drain with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.supervisor import BACKOFF_CAP_S, BACKOFF_S, Supervisor

LIMIT_S = 50.0
#: A child that leaves a mark, and another one when its parent wants it to drain.
CHILD = """
import os, sys, threading
from worker.supervisor import drain_with_parent
drained = threading.Event()
drain_with_parent(drained.set)
open(sys.argv[1] + f"/began-{os.getpid()}", "w").close()
drained.wait()
open(sys.argv[1] + f"/drained-{os.getpid()}", "w").close()
"""
PARENT = """
import sys
from worker.supervisor import Supervisor
child = [sys.executable, "-P", "-c", sys.argv[2], sys.argv[1]]
sys.exit(Supervisor(command=child, processes=2).run())
"""


def wait_until(holds: Callable[[], object]) -> None:
    """Return once it holds."""
    until = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.01)


def marks(folder: Path, what: str) -> set[int]:
    """Give the processes that left a mark."""
    return {int(path.name.split("-")[1]) for path in folder.glob(f"{what}-*")}


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Give a supervisor in a process of its own, with two children that have begun."""
    command = [sys.executable, "-P", "-c", PARENT, str(tmp_path), CHILD]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: len(marks(tmp_path, "began")) == 2)
            yield process
        finally:
            process.kill()
    wait_until(lambda: not any(map(alive, marks(tmp_path, "began"))))


def alive(pid: int) -> bool:
    """Tell whether a process lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_a_child_that_dies_is_replaced(parent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """The others go on."""
    first, other = sorted(marks(tmp_path, "began"))

    os.kill(first, signal.SIGKILL)

    wait_until(lambda: len(marks(tmp_path, "began")) == 3)
    assert alive(other)
    assert not marks(tmp_path, "drained")
    assert parent.poll() is None


def test_a_signal_drains_all_children(parent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """They are waited for, and what a terminal sends to its group does not reach them twice."""
    children = marks(tmp_path, "began")
    assert os.getpgid(parent.pid) not in {os.getpgid(child) for child in children}

    parent.send_signal(signal.SIGTERM)

    assert parent.wait(LIMIT_S) == 0
    assert marks(tmp_path, "drained") == marks(tmp_path, "began")


def test_children_drain_when_their_parent_is_killed(
    parent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """Nobody would restart or stop them any more."""
    parent.kill()

    wait_until(lambda: marks(tmp_path, "drained") == marks(tmp_path, "began"))


def test_a_second_signal_waits_for_nobody(tmp_path: Path) -> None:
    """What hangs is killed."""
    stuck = "import sys, time; open(sys.argv[1] + '/began-1', 'w').close(); time.sleep(600)"
    command = [sys.executable, "-P", "-c", PARENT, str(tmp_path), stuck]
    with subprocess.Popen(command) as process:
        wait_until(lambda: marks(tmp_path, "began"))
        process.send_signal(signal.SIGTERM)
        # Two that are pending at once are one.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 3


def test_who_dies_again_and_again_is_started_ever_later() -> None:
    """A database that is away must not cost a core."""
    now = [0.0]
    supervisor = Supervisor(
        command=[sys.executable, "-c", "raise SystemExit(4)"], processes=1, clock=lambda: now[0]
    )
    (place,) = supervisor._places
    waits = []
    for _ in range(9):
        supervisor.look()
        assert place.child is not None
        place.child.wait(LIMIT_S)
        supervisor.look()
        assert not supervisor.children
        waits.append(place.due - now[0])
        now[0] = place.due

    assert waits == [min(BACKOFF_CAP_S, BACKOFF_S * 2**n) for n in range(9)]


def test_wrong_usage_is_not_tried_again() -> None:
    """A new child would say the same."""
    supervisor = Supervisor(command=[sys.executable, "-c", "raise SystemExit(2)"], processes=1)
    supervisor.look()
    child = supervisor._places[0].child
    assert child is not None
    child.wait(LIMIT_S)

    assert supervisor.look() == 2
