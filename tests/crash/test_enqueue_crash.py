"""An enqueue that is killed: all of its jobs are there, or none is, and the next one mends it."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tokenspool import migrate
from tokenspool.database import Database
from tokenspool.inputs import InputDefaults, read_inputs
from tokenspool.store.intake import Enqueued, JobOptions, Listener, enqueue

LINES = 2_500
BEFORE = 1_200

#: Kills itself when it comes to a point: `python -c … DATABASE INPUT BASE_URL POINT VISIT`.
CHILD = """
import itertools, os, signal, sys
from tokenspool import migrate
from tokenspool.database import Database
from tokenspool.inputs import InputDefaults, read_inputs
from tokenspool.store import intake
from tokenspool.store.intake import changes, hidden, rows

url, path, address, point, visit = sys.argv[1:]
visits = itertools.count(1)

def dies_after(module, name):
    original = getattr(module, name)
    def function(*args, **named):
        result = original(*args, **named)
        if next(visits) == int(visit):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(module, name, function)

POINTS = {
    "made an intake": (hidden.Hidden, "_begin"),
    "inside an insert": (rows, "insert"),
    "after an insert": (hidden.Hidden, "add"),
    "all lines read": (hidden.Hidden, "drop_clashes"),
    "inside the reveal": (hidden.Hidden, "_reveal"),
    "after the reveal": (hidden.Hidden, "reveal"),
    "inside a change": (changes, "_apply"),
    "inside a sweep": (hidden, "_sweep_newest"),
}
dies_after(*POINTS[point])
database = Database(url)
migrate.ensure(database)
lines = read_inputs([path], InputDefaults(batch="b", model="m"), warn=print)
options = intake.JobOptions(base_url=address)
listener = intake.Listener(pause=lambda _: None)
intake.enqueue(database, "b", "/out", lines, options, listener=listener)
"""
OLD, NEW = "http://old/v1", "http://new/v1"


class Folder:
    """A database and inputs; what is there is looked at without the product's own code."""

    def __init__(self, root: Path) -> None:
        """Everything lies below one folder."""
        self.root = root
        self.path = root / ".tokenspool" / "spool.db"

    def write(self, lines: int, *, bad: bool = False) -> Path:
        """Write an input; with a bad line at its end if so asked."""
        path = self.root / f"{lines}.jsonl"
        docs: list[dict[str, object]] = [
            {"custom_id": f"job-{number:05}", "prompt": f"about {number}"}
            for number in range(lines)
        ]
        path.write_text("".join(f"{json.dumps(doc)}\n" for doc in docs) + "{broken\n" * bad)
        return path

    def enqueue(self, path: Path, address: str = OLD) -> Enqueued:
        """Enqueue and live."""
        lines = read_inputs([path], InputDefaults(batch="b", model="m"), warn=pytest.fail)
        options, listener = JobOptions(base_url=address), Listener(pause=lambda _: None)
        with closing(Database(f"sqlite:///{self.path}")) as database:
            migrate.ensure(database)
            return enqueue(database, "b", "/out", lines, options, listener=listener)

    def killed(self, path: Path, address: str = OLD, *, point: str, visit: int = 1) -> int:
        """Enqueue in a process of its own that kills itself; give how it ended."""
        arguments = [f"sqlite:///{self.path}", str(path), address, point, str(visit)]
        command = [sys.executable, "-P", "-c", CHILD, *arguments]
        return subprocess.run(command, check=False, timeout=50).returncode

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        """Read with SQLite alone."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()

    def visible(self) -> Counter[str]:
        """Count the jobs that a worker may see, by the address that they ask."""
        found = self.ask(
            "SELECT endpoint.url, count(*) FROM job JOIN intake ON intake.id = job.intake_id"
            " JOIN endpoint ON endpoint.id = job.endpoint_id WHERE intake.revealed GROUP BY 1"
        )
        return Counter({str(url): int(str(jobs)) for url, jobs in found})

    def counted(self) -> int:
        """Give how many jobs `status` says are pending."""
        ((jobs,),) = self.ask("SELECT sum(jobs) FROM job_count WHERE state = 'pending'")
        return int(str(jobs or 0))

    def is_sound(self) -> bool:
        """Tell whether the file is whole and no job belongs to nothing."""
        orphans = "SELECT 1 FROM job WHERE intake_id NOT IN (SELECT id FROM intake)"
        return self.ask("PRAGMA integrity_check") == [("ok",)] and not self.ask(orphans)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Give an empty folder."""
    return Folder(tmp_path)


HIDDEN = [
    ("made an intake", 1),
    ("inside an insert", 1),
    ("inside an insert", 2),
    ("after an insert", 2),
    ("all lines read", 1),
    ("inside the reveal", 1),
]


@pytest.mark.parametrize(("point", "visit"), HIDDEN)
def test_killed_before_the_reveal_none_of_it_is_there(
    folder: Folder, point: str, visit: int
) -> None:
    """Earlier jobs are as they were; the same command again takes all, each job once."""
    folder.enqueue(folder.write(BEFORE))
    everything = folder.write(LINES)

    assert folder.killed(everything, NEW, point=point, visit=visit) == -signal.SIGKILL
    assert folder.is_sound()
    assert folder.visible() == {OLD: BEFORE}
    assert folder.counted() == BEFORE

    again = folder.enqueue(everything, NEW)
    assert again == Enqueued(new=LINES - BEFORE, updated=BEFORE, accepted=True)
    assert folder.is_sound()
    assert folder.visible() == {NEW: LINES}
    assert folder.counted() == LINES
    assert folder.ask("SELECT count(*), count(DISTINCT custom_id) FROM job") == [(LINES, LINES)]


@pytest.mark.parametrize(("point", "visit"), [("after the reveal", 1), ("inside a change", 2)])
def test_killed_after_the_reveal_all_of_it_is_there(folder: Folder, point: str, visit: int) -> None:
    """Only new options of old jobs may be missing; the same command again gives them."""
    folder.enqueue(folder.write(BEFORE))
    everything = folder.write(LINES)

    assert folder.killed(everything, NEW, point=point, visit=visit) == -signal.SIGKILL
    assert folder.is_sound()
    assert folder.visible().total() == folder.counted() == LINES
    assert folder.visible()[OLD] > 0

    again = folder.enqueue(everything, NEW)
    assert (again.new, again.invalid, again.accepted) == (0, 0, True)
    assert folder.visible() == {NEW: LINES}
    assert folder.counted() == LINES


@pytest.mark.parametrize("visit", [1, 2])
def test_killed_while_sweeping_the_next_one_sweeps_on(folder: Folder, visit: int) -> None:
    """Removing what an abandoned enqueue left may itself be interrupted, again and again."""
    everything = folder.write(LINES)
    folder.killed(everything, point="all lines read")

    ended = folder.killed(everything, point="inside a sweep", visit=visit)

    assert ended == -signal.SIGKILL
    assert folder.is_sound()
    assert folder.visible() == {}
    assert folder.enqueue(everything).accepted
    assert folder.visible() == {OLD: LINES}
    assert folder.counted() == LINES


def test_killed_while_a_refused_input_is_removed_nothing_is_there(folder: Folder) -> None:
    """An input with a bad line leaves nothing to see, at whatever point it dies."""
    refused = folder.write(BEFORE, bad=True)

    ended = folder.killed(refused, point="inside a sweep", visit=2)

    assert ended == -signal.SIGKILL
    assert folder.is_sound()
    assert folder.visible() == {}
    assert not folder.enqueue(refused).accepted
    assert folder.ask("SELECT count(*) FROM job") == [(0,)]
