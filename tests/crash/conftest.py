"""Stages for the crash tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator import process
from simulator.process import Simulator
from simulator.settings import SimSettings
from tests.crash.reporting import LINES, Report
from tests.crash.stage import Stage


@pytest.fixture(scope="module")
def quick_sampler() -> Iterator[Simulator]:
    """Give an endpoint that samples: shared files and doubled bytes show only with one."""
    with process.start(SimSettings(sampling=True, rate=800)) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def paced() -> Iterator[Simulator]:
    """Give an endpoint that says the same text again, at a pace of real ones."""
    with process.start(SimSettings(rate=50)) as simulator:
        yield simulator


@pytest.fixture
def stage(tmp_path: Path, paced: Simulator) -> Stage:
    """Give a stage on the paced endpoint; it has counted nothing yet."""
    paced.reset()
    return Stage(root=tmp_path, simulator=paced)


@pytest.fixture
def brisk(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage on an endpoint that is four times as fast."""
    with process.start(SimSettings(rate=200)) as simulator:
        yield Stage(root=tmp_path, simulator=simulator)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Give what prints a figure at the end of the session."""
    lines = request.config.stash.setdefault(LINES, [])
    return lambda line: lines.append(f"{request.node.name}: {line}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the figures."""
    if lines := config.stash.get(LINES, []):
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
