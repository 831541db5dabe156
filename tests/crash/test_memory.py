"""Memory is bounded by what is set, never by how long a stream is or how many jobs there are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from simulator import process
from simulator.settings import SimSettings
from tests.crash.reporting import Report
from tests.crash.stage import Stage, ending, wait_until

MiB = 1024 * 1024
#: The budget for text that is not committed yet; a process may grow by as much.
MOST = 64 * MiB
#: A token of the simulator is about so long.
BYTES_PER_TOKEN = 6


def _resident(run: subprocess.Popen[bytes], name: str = "VmRSS") -> int:
    """Give a process's memory in bytes: now, or at its peak (`VmHWM`); 0 when it has ended."""
    for line in Path(f"/proc/{run.pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _peak(run: subprocess.Popen[bytes]) -> int:
    """Wait for a process's end, which must be a good one; give the most memory it had."""
    seen = [0]

    def has_ended() -> bool:
        seen.append(_resident(run, "VmHWM"))
        return run.poll() is not None

    wait_until(has_ended, patience_s=900)
    assert run.returncode == 0
    return max(seen)


def _check_long_stream(root: Path, report: Report, *, size: int) -> None:
    tokens = size // BYTES_PER_TOKEN
    with process.start(SimSettings()) as simulator:
        stage = Stage(root=root, simulator=simulator)
        stage.enqueue(stage.prompts([tokens]))

        with ending(stage.start(stage.run_command("--streams", "1"))) as run:
            wait_until(lambda: simulator.stats()["generated"] > 0, of=run)
            begun = _resident(run)
            growth = _peak(run) - begun

        published = (stage.out / "prompts-0000.md").stat().st_size
        report(f"{published / MiB:.0f} MiB in one stream: grown by {growth / MiB:.0f} MiB")
        assert published > 0.8 * size
        assert growth < MOST


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_long_stream_does_not_fill_the_memory(tmp_path: Path, report: Report) -> None:
    """A single text of 20 MB, as fast as it can be read, takes less than the budget."""
    _check_long_stream(tmp_path, report, size=20 * MiB)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_very_long_stream_does_not_fill_the_memory(tmp_path: Path, report: Report) -> None:
    """Nor does one of 200 MB take more."""
    _check_long_stream(tmp_path, report, size=200 * MiB)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_hundred_thousand_jobs_do_not_fill_the_memory(tmp_path: Path, report: Report) -> None:
    """Neither enqueueing them nor working on them takes more for being many."""
    with process.start(SimSettings(rate=400)) as simulator:
        stage = Stage(root=tmp_path, simulator=simulator)
        few, many = _enqueue(stage, 100), _enqueue(stage, 100_000)

        with ending(stage.start(stage.run_command("--streams", "16"))) as run:
            wait_until(lambda: simulator.stats()["live"] == 16, of=run)
            begun = _resident(run)
            wait_until(lambda: simulator.stats()["requests"] > 48, of=run)
            growth = _resident(run, "VmHWM") - begun

        report(
            f"100,000 jobs: enqueue took {(many - few) / MiB:.0f} MiB more than for 100,"
            f" a run with them queued grew by {growth / MiB:.0f} MiB"
        )
        assert many - few < MOST
        assert growth < MOST


def _enqueue(stage: Stage, count: int) -> int:
    """Enqueue so many prompts; give the most memory that it took."""
    path = stage.root / f"many-{count}.jsonl"
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"prompt": f"Tell me {number} of {count}."}) + "\n")
    name, *arguments = stage.enqueueing(path)
    with ending(stage.start(stage.command(str(name), *arguments))) as run:
        return _peak(run)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_live_stream_takes_less_than_120_kilobytes(tmp_path: Path, report: Report) -> None:
    """What 1,000 streams take beyond eight, at the peak, with buffers, parts and connections."""
    peaks = []
    with process.start(SimSettings(rate=50)) as simulator:
        for streams in (8, 1000):
            root = tmp_path / str(streams)
            root.mkdir()
            stage = Stage(root=root, simulator=simulator)
            stage.enqueue(stage.prompts([400] * streams))
            with ending(stage.start(stage.run_command("--streams", str(streams)))) as run:
                peaks.append(_peak(run))

    few, many = peaks
    each = (many - few) / 992
    report(f"{each / 1024:.0f} KiB for each live stream, {many / MiB:.0f} MiB in all")
    assert each < 120 * 1024
