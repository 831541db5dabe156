"""A stage for crash tests: a folder, a simulator in its own process, and the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.process import Simulator
from tests.crash.verifier import Row

#: Nothing on the stage takes longer; a machine under other load gets the rest.
PATIENCE_S = 120.0
MODEL = "sim-1"
#: Share of the random kills that may come while a run is still starting.
STARTING_KILLS = 0.25


@dataclass(slots=True, kw_only=True)
class Stage:
    """One output folder that is worked on by the command line."""

    root: Path
    simulator: Simulator
    #: Where jobs are kept, if not in the output folder.
    db: Path | None = None
    #: Added to the environment of every command.
    environment: dict[str, str] = field(default_factory=dict)
    _texts: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.root / "out"

    @property
    def database(self) -> Path:
        """Where the folder's jobs are kept."""
        return self.db or self.out / ".tokenspool" / "spool.db"

    def prompts(self, lengths: Sequence[int], *, name: str = "prompts") -> Path:
        """Write a JSONL of prompts whose answers have so many tokens."""
        path = self.root / f"{name}.jsonl"
        with path.open("w") as file:
            for number, tokens in enumerate(lengths):
                line = {
                    "custom_id": f"{name}-{number:04}",
                    "prompt": f"Tell me {name} {number}.",
                    "params": {"metadata": {"tokens": str(tokens)}},
                }
                file.write(json.dumps(line) + "\n")
        return path

    def command(self, name: str, *arguments: str | Path) -> list[str]:
        """Give a command on this folder."""
        place = [] if self.db is None else ["--db", self.db]
        return [sys.executable, "-P", "-m", "tokenspool", name, *map(str, [*arguments, *place])]

    def run_command(self, *arguments: str | Path) -> list[str]:
        """Give the `run` of this folder."""
        return self.command("run", *arguments, "-o", self.out, *self._request())

    def enqueueing(self, *inputs: Path) -> list[str | Path]:
        """Give the arguments that enqueue prompts which go on with `prefill`."""
        return ["enqueue", *inputs, "-o", self.out, "--resume", "prefill", *self._request()]

    def enqueue(self, *inputs: Path) -> None:
        """Enqueue prompts that go on with `prefill`."""
        name, *arguments = self.enqueueing(*inputs)
        self.done(self.command(str(name), *arguments))

    def start(self, command: Sequence[str], *, said: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command; what it says on stderr goes to `said`."""
        with (said or Path(os.devnull)).open("wb") as errors:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    def done(self, command: Sequence[str], *, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; it must end with `code`."""
        result = subprocess.run(
            command,
            cwd=self.root,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert result.returncode == code, f"{command[4:6]}: {result.returncode}\n{result.stderr}"
        return result

    def show(self, custom_id: str) -> dict[str, Any]:
        """Give what `show --json` says about a job."""
        shown = self.done(self.command("show", custom_id, "-o", self.out, "--json"))
        document: dict[str, Any] = json.loads(shown.stdout)
        return document

    def reference(self, job: Row) -> bytes:
        """Give the text that an undisturbed answer to this job has."""
        body: bytes = job["body"]
        if body not in self._texts:
            self._texts[body] = self.simulator.text(json.loads(body)).encode()
        return self._texts[body]

    def kill_within(
        self, process: subprocess.Popen[bytes], seconds: float, chance: random.Random
    ) -> bool:
        """SIGKILL a run at a random moment; False if it had ended by then.

        A quarter of the kills count the seconds from its start, the others from its first request:
        how long it takes to start is the machine's business.
        """
        asked = self.simulator.stats()["requests"]
        if chance.random() >= STARTING_KILLS:
            wait_until(
                lambda: process.poll() is not None or self.simulator.stats()["requests"] > asked,
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, seconds))
            return False
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        return True

    def _request(self) -> tuple[str, ...]:
        return "--base-url", self.simulator.base_url, "--model", MODEL

    def _environment(self) -> Mapping[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TOKENSPOOL_", "OPENAI_"))}
        return kept | {"OPENAI_API_KEY": "sk-none", "NO_COLOR": "1"} | self.environment


@contextlib.contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """See to it that a process does not outlive the test."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)


def wait_until(
    holds: Callable[[], object],
    *,
    of: subprocess.Popen[bytes] | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Return once `holds()`; fail when it never does, or when the process ends before."""
    until = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < until, "it never happened"
        assert of is None or of.poll() is None, "the process ended before"
        time.sleep(0.01)
