"""Where a fleet's tests take place: an empty PostgreSQL, and endpoints of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulator import process
from simulator.settings import SimSettings
from tests.contract.conftest import _made
from tests.contract.servers import postgresql
from tests.crash.fleet_stage import FleetStage, fleet_stage

#: Gives a stage on an endpoint that is like that.
MakeStage = Callable[[SimSettings], FleetStage]


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[MakeStage]:
    """Give what makes a fleet's stage; all that it started ends with the test."""
    with contextlib.ExitStack() as stack:

        def make(settings: SimSettings) -> FleetStage:
            url = stack.enter_context(_made(stack.enter_context(postgresql())))
            simulator = stack.enter_context(process.start(settings))
            return stack.enter_context(fleet_stage(tmp_path, url, simulator))

        yield make
