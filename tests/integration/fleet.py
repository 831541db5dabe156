"""A fleet for tests: one PostgreSQL, one folder, and workers that come and go."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from simulator.process import Simulator
from tokenspool import tables as t
from tokenspool.database import Database

LIMIT_S = 50.0
Process = subprocess.Popen[bytes]


def wait_until(holds: Callable[[], object], *, of: Sequence[Process] = ()) -> None:
    """Return once it holds; fail when it never does, or when a process ends before."""
    until = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < until, "it never happened"
        assert [p.poll() for p in of] == [None] * len(of), "a process ended before"
        time.sleep(0.02)


@dataclass
class Fleet:
    """The database, the outputs and the endpoint that all workers share."""

    folder: Path
    url: str
    sim: Simulator

    def __post_init__(self) -> None:
        self.database = Database(self.url)

    @property
    def environment(self) -> dict[str, str]:
        """Give the environment of a command."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TOKENSPOOL_", "OPENAI_"))}
        return kept | {
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": "",
            "TOKENSPOOL_DATABASE_URL": self.url,
        }

    def command(self, *args: str, code: int = 0) -> str:
        """Run a command to its end; give its stdout."""
        done = subprocess.run(
            (sys.executable, "-P", "-m", "tokenspool", *args),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def enqueue(self, jobs: int, *, tokens: int, batch: str = "in") -> None:
        """Enqueue jobs whose answers have so many tokens."""
        lines = [
            {
                "custom_id": f"job-{number:03}",
                "prompt": f"Tell me story {number}.",
                "params": {"metadata": {"tokens": str(tokens)}},
            }
            for number in range(jobs)
        ]
        path = self.folder / "in.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        out = self.folder / ("out" if batch == "in" else batch)
        place = ("-o", str(out), "--base-url", self.sim.base_url, "--model", "m")
        self.command("enqueue", str(path), "--batch", batch, "--resume", "prefill", *place)

    @contextlib.contextmanager
    def worker(self, *, lease_s: float = 45.0, streams: int = 8) -> Iterator[Process]:
        """Run a worker while the block runs; its lease is the test's."""
        module = ("-m", "tests.integration.fleet_worker", self.url, str(lease_s), str(streams))
        with self._started(sys.executable, "-P", *module) as process:
            yield process

    @contextlib.contextmanager
    def command_worker(self, *args: str) -> Iterator[Process]:
        """Run `tokenspool worker` while the block runs."""
        with self._started(sys.executable, "-P", "-m", "tokenspool", "worker", *args) as process:
            yield process

    @contextlib.contextmanager
    def _started(self, *command: str) -> Iterator[Process]:
        with (self.folder / "said").open("ab") as said:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @property
    def said(self) -> str:
        """Give what the workers said."""
        return (self.folder / "said").read_text()

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        """Give all rows of a table."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(table).order_by(*table.primary_key))
            return [dict(row) for row in rows.mappings()]

    def states(self) -> set[str]:
        """Give the states that there are jobs in."""
        return {row["state"] for row in self.rows(t.job)}

    def owners(self) -> set[str]:
        """Give the workers that own running jobs."""
        return {row["owner"] for row in self.rows(t.job) if row["state"] == "running"}

    def living(self) -> dict[str, int]:
        """Give the workers that are not gone, and their process ids."""
        return {row["id"]: row["pid"] for row in self.rows(t.worker) if row["state"] != "gone"}

    def texts(self) -> dict[str, bytes]:
        """Give every job's text from its segments, which must touch each other and be whole."""
        segments: dict[int, list[dict[str, Any]]] = {}
        with self.database.read() as connection:  # one snapshot for all three
            s = t.segment.c
            found = connection.execute(sa.select(t.segment).order_by(s.job_id, s.start))
            for row in found.mappings():
                segments.setdefault(row["job_id"], []).append(dict(row))
            checkpoints = connection.execute(sa.select(t.checkpoint)).mappings()
            points = {point["job_id"]: point for point in checkpoints}
            jobs = connection.execute(sa.select(t.job)).mappings().all()
        texts = {}
        for job in jobs:
            data = b""
            for one in segments.get(job["id"], []):
                assert (one["kind"], one["edition"], one["start"]) == ("text", 1, len(data))
                assert zlib.crc32(one["data"]) == one["crc"]
                data += one["data"]
            if job["id"] in points:
                assert points[job["id"]]["text"] == len(data)
            texts[job["custom_id"]] = data
        return texts

    def check_done(self, *, exact: bool = True) -> None:
        """Check that all is done: files equal the journal, if `exact` an undisturbed answer too."""
        texts = self.texts()
        out = self.folder / "out"
        assert {p.name for p in out.glob("*.part")} == set()
        for job in self.rows(t.job):
            text = (out / job["name"]).read_bytes()
            assert job["state"] == "done"
            assert text == texts[job["custom_id"]]
            assert (job["bytes"], job["sha256"]) == (len(text), hashlib.sha256(text).digest())
            assert job["owner"] is None
            if exact:
                assert text == self.sim.text(json.loads(job["body"])).encode()
