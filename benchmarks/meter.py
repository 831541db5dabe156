"""What a measured process tells about itself when it has ended its work."""

from __future__ import annotations

import json
import time
from pathlib import Path


class Meter:
    """Begins to measure when it is made: imports do not count."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._at = time.monotonic()
        self._rss = resident()

    def tell(self, *, chunks: int) -> None:
        """Print one JSON line: chunks, seconds of CPU and of the clock, growth of memory."""
        print(
            json.dumps(
                {
                    "chunks": chunks,
                    "cpu_s": time.process_time() - self._cpu,
                    "wall_s": time.monotonic() - self._at,
                    "growth_bytes": resident(peak=True) - self._rss,
                }
            )
        )


def resident(*, peak: bool = False, pid: int | str = "self") -> int:
    """Give the memory of a process, in bytes: now, or at its peak."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
