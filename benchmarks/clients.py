"""One client at work against the simulator, measured from outside and by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.crash.stage import Stage

Client = Literal["loop", "spool", "bare"]
#: Between two looks at a client; each is a request to the simulator and a read of /proc.
LOOK_S = 0.25
#: The first of the time in which all streams are alive still has requests in it.
SETTLE_S = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a client took for its chunks."""

    chunks: int
    cpu_s: float
    wall_s: float
    growth_bytes: int
    streams: int
    #: While all streams were alive and nothing began or ended; None if that was too short.
    steady: float | None

    @property
    def whole(self) -> float:
        """Chunks for a second of CPU, from the first request to the last byte on disk."""
        return self.chunks / self.cpu_s

    @property
    def kib_per_stream(self) -> float:
        """Memory at its peak, above what was there before the first request."""
        return self.growth_bytes / self.streams / 1024


@dataclass(frozen=True, slots=True)
class Look:
    """What a process had taken and the endpoint had said, at one moment."""

    at: float
    cpu_s: float
    generated: int


@dataclass(slots=True)
class Watch:
    """Looks at a client while all of its streams are alive."""

    streams: int
    looks: list[Look] = field(default_factory=list)

    def look(self, process: subprocess.Popen[Any], stage: Stage) -> None:
        """Keep what it has done by now, if all streams are alive."""
        counted = stage.simulator.stats()
        if counted["live"] == self.streams and process.poll() is None:
            self.looks.append(Look(time.monotonic(), cpu_s(process.pid), int(counted["generated"])))

    def steady(self) -> float | None:
        """Give the chunks per CPU-second in the middle."""
        if not self.looks:
            return None
        looks = [look for look in self.looks if look.at - self.looks[0].at >= SETTLE_S]
        if len(looks) < 4 or looks[-1].at - looks[0].at < SETTLE_S:  # noqa: PLR2004 - too short
            return None
        chunks = looks[-1].generated - looks[0].generated
        return chunks / max(looks[-1].cpu_s - looks[0].cpu_s, 1 / _TICKS)


def measure(client: Client, stage: Stage, *, streams: int, tokens: int) -> Figures:
    """Let a client read so many streams of so many tokens each, all at once."""
    prompts = stage.prompts([tokens] * streams)
    if client == "spool":
        stage.enqueue(prompts)
        arguments = [stage.database, streams]
    else:
        arguments = [prompts, stage.root / client, stage.simulator.base_url, streams]
    stage.simulator.reset()
    watch = Watch(streams)
    command = [sys.executable, "-P", "-m", f"benchmarks.{client}", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=stage.root) as process:
        while process.poll() is None:
            watch.look(process, stage)
            time.sleep(LOOK_S)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode != 0:
        raise SystemExit(f"the client {client} ended with {process.returncode}")
    return Figures(streams=streams, steady=watch.steady(), **json.loads(said))


def cpu_s(pid: int) -> float:
    """Give the CPU time of a process, all threads."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return 0.0
    return (int(words[11]) + int(words[12])) / _TICKS
