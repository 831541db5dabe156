"""Goodput by the server's own count: tokens generated for each that the documents need.

A process that is killed cannot count what it lost; the endpoint can.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.stage import PATIENCE_S, Stage, ending, wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """What the endpoint counted."""

    generated: int
    needed: int
    requests: int

    @property
    def ratio(self) -> float:
        """Tokens generated for each that was needed; 1 is perfect."""
        return self.generated / self.needed

    def __str__(self) -> str:
        """Say it for a report."""
        return (
            f"{self.generated:,} tokens generated for {self.needed:,} needed: {self.ratio:.4f},"
            f" in {self.requests} requests"
        )


def goodput_of(
    stage: Stage, command: Sequence[str], *, needed: int, kills: Sequence[float]
) -> Goodput:
    """Run a command, killed whenever that share of the needed tokens was said, then to its end."""
    stage.simulator.reset()
    for share in kills:
        with ending(stage.start(command)) as process:
            _wait_for(stage, process, int(share * needed))
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
        # What the server still handed to a socket that nobody reads was generated too.
        wait_until(lambda: stage.simulator.stats()["live"] == 0)
    stage.done(command)
    counted = stage.simulator.stats()
    return Goodput(generated=counted["generated"], needed=needed, requests=counted["requests"])


def loop_command(stage: Stage, prompts: Path, *, streams: int) -> list[str]:
    """Give the command of the loop that people write by hand, for comparison."""
    name, *_ = stage.command("")
    return [
        name, "-P", "-m", "benchmarks.loop",
        str(prompts), str(stage.root / "loop"), stage.simulator.base_url, str(streams),
    ]  # fmt: skip


def _wait_for(stage: Stage, process: subprocess.Popen[bytes], tokens: int) -> None:
    wait_until(lambda: stage.simulator.stats()["generated"] >= tokens, of=process)
