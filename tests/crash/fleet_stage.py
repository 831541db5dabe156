"""A stage for fleets: the folder and the endpoint of a stage, a PostgreSQL, and many workers."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.rows import DictRow

from simulator.process import Simulator
from simulator.sampled import check_sampled
from tests.crash.fleet_verifier import look_at_fleet, open_fleet
from tests.crash.fleet_worker import Told
from tests.crash.goodput import Goodput
from tests.crash.stage import Stage
from tests.crash.verifier import Row, State, judge
from tokenspool import migrate
from tokenspool.database import Database

Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphans:
    """The jobs that somebody had when he fell silent."""

    since: float
    jobs: tuple[int, ...]
    #: His ids: whoever else has one of the jobs goes on with it.
    workers: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class FleetStage(Stage):
    """One output folder and one PostgreSQL that workers share."""

    url: str
    lengths: Sequence[int] = ()
    _started: list[Process] = field(default_factory=list)
    #: One for all questions: making one costs the database more than answering.
    _connection: psycopg.Connection[DictRow] | None = None

    def __post_init__(self) -> None:
        """Make the tables; all commands find them."""
        self.environment["TOKENSPOOL_DATABASE_URL"] = self.url
        database = Database(self.url)
        migrate.upgrade(database)
        database.close()

    # --- work and workers --------------------------------------------------------------------
    def fill(self, lengths: Sequence[int]) -> None:
        """Enqueue jobs whose answers have so many tokens; the endpoint begins to count."""
        self.lengths = lengths
        self.enqueue(self.prompts(lengths))
        self.simulator.reset()

    def worker(self, *, streams: int, lease_s: float = 45.0, **told: Any) -> Process:
        """Start a worker; with `command_worker` the whole command instead."""
        asked = Told(url=self.url, streams=streams, lease_s=lease_s, **told)
        return self._start(self.told(asked))

    @staticmethod
    def told(asked: Told) -> list[str]:
        """Give the command of a worker that is told so."""
        told = msgspec.json.encode(asked).decode()
        return [sys.executable, "-P", "-m", "tests.crash.fleet_worker", told]

    def command_worker(self, *arguments: str) -> Process:
        """Start `tokenspool worker`."""
        return self._start(self.command("worker", *arguments))

    def _start(self, command: Sequence[str]) -> Process:
        said = self.root / f"said-{len(self._started)}"
        self._started.append(self.start(command, said=said))
        return self._started[-1]

    def close(self) -> None:
        """Let no worker outlive the test; none may have met what nobody foresaw."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self.hang_up()
        for said in self.root.glob("said-*"):
            assert "Traceback" not in said.read_text(), said.read_text()

    # --- looking -----------------------------------------------------------------------------
    def rows(self, query: str, *values: object) -> list[Row]:
        """Ask the database."""
        if self._connection is None or self._connection.closed:
            self._connection = open_fleet(self.url)
            self._connection.autocommit = True
        return self._connection.execute(query.encode(), values).fetchall()

    def hang_up(self) -> None:
        """Let go of the database, which will be restarted."""
        if self._connection is not None:
            self._connection.close()

    def states(self) -> dict[str, int]:
        """Give how many jobs stand where."""
        rows = self.rows("SELECT state, count(*) AS jobs FROM job GROUP BY state")
        return {row["state"]: row["jobs"] for row in rows}

    def is_done(self) -> bool:
        """Whether every job is."""
        return self.states() == {"done": len(self.lengths)}

    def orphans(self, process: Process) -> Orphans:
        """Give the jobs that a process has now, from now on."""
        rows = self.rows("SELECT id FROM worker WHERE pid = %s", process.pid)
        workers = [row["id"] for row in rows]
        jobs = self.rows(
            "SELECT job.id FROM job JOIN checkpoint ON checkpoint.job_id = job.id"
            " WHERE state = 'running' AND owner = ANY(%s) AND checkpoint.text > 0",
            workers,
        )
        since, ids = time.monotonic(), tuple(job["id"] for job in jobs)
        return Orphans(since=since, jobs=ids, workers=tuple(workers))

    def go_on(self, orphans: Orphans) -> bool:
        """Whether others have gone on with all of these jobs."""
        left = self.rows(
            "SELECT id FROM job WHERE id = ANY(%s) AND (state IN ('pending', 'dispatched')"
            " OR state = 'running' AND owner = ANY(%s))",
            list(orphans.jobs),
            list(orphans.workers),
        )
        return not left

    def goodput(self) -> Goodput:
        """Give what the endpoint counted."""
        counted = self.simulator.stats()
        return Goodput(
            generated=counted["generated"],
            needed=sum(self.lengths),
            requests=counted["requests"],
        )

    # --- judging -----------------------------------------------------------------------------
    def judge(self, *, drained: bool = True, sampled: bool = False) -> State:
        """Give the state if nothing is wrong with it: with each text, each file, each count.

        Of a sampled text each token must stand once and in its place; any other one must be the
        undisturbed answer to the byte.
        """
        state = look_at_fleet(self.url)
        judge(
            state,
            drained=drained,
            reference=None if sampled else self.reference,
            content=_sampled if sampled else None,
        )
        if sampled and drained:
            for job in state.jobs:
                tokens = self.lengths[int(job["custom_id"].rsplit("-", 1)[1])]
                assert check_sampled(state.text(job).decode(), tokens=tokens) == []
        return state


def _sampled(text: str) -> list[str]:
    return check_sampled(text, whole=False)


@contextlib.contextmanager
def fleet_stage(root: Path, url: str, simulator: Simulator) -> Iterator[FleetStage]:
    """Give a stage without workers; those that are started end with the block."""
    stage = FleetStage(root=root, simulator=simulator, url=url)
    try:
        yield stage
    finally:
        stage.close()
