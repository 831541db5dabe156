"""A SIGKILL at every named fault point: whatever stands there, the next run goes on from it.

The endpoint samples, so text that were asked for twice, or written by two, could not look right. A
run spends most of its time waiting for the endpoint; so several cases are on their way at once.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import pytest

from simulator.process import Simulator
from simulator.sampled import check_sampled
from tests.crash.nursery import Nursery, nursery
from tests.crash.points import fault_points
from tests.crash.stage import Stage
from tests.crash.verifier import State, look, snapshot, verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
#: Of different lengths, so that jobs end one after the other and each point is met often.
LENGTHS = [10 + 13 * number for number in range(20)]
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Case:
    """So many runs in a row die at the `visit`-th time that they come to a point."""

    point: str
    visit: int
    deaths: int = 1

    def __str__(self) -> str:
        """Give the test's name."""
        return f"{self.point}-{self.visit}" + (f"-x{self.deaths}" if self.deaths > 1 else "")


CASES = [
    *(Case(point, visit) for point in fault_points() for visit in (1, 2, 5)),
    *(Case(point, 3, deaths=3) for point in fault_points()),
]
Outcomes = dict[Case, Future[None]]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kill_at_any_point_loses_nothing(outcomes: Outcomes, case: Case) -> None:
    """What was committed stays; the last run finishes every job, and each token stands once."""
    outcomes[case].result()


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    quick_sampler: Simulator,
) -> Iterator[Outcomes]:
    """Give what comes of the cases that were chosen; they are on their way."""
    chosen: list[Case] = [
        cast("Case", item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    with contextlib.ExitStack() as stack:
        free: SimpleQueue[Nursery] = SimpleQueue()
        for _ in range(min(AT_ONCE, len(chosen))):
            free.put(stack.enter_context(nursery()))
        threads = stack.enter_context(ThreadPoolExecutor(AT_ONCE))

        def play(case: Case, root: Path) -> None:
            children = free.get()
            try:
                _play(case, Stage(root=root, simulator=quick_sampler), children)
            finally:
                free.put(children)

        yield {
            case: threads.submit(play, case, tmp_path_factory.mktemp(str(case))) for case in chosen
        }


def _play(case: Case, stage: Stage, children: Nursery) -> None:
    children.command(*stage.enqueueing(stage.prompts(LENGTHS)))
    committed = snapshot(look(stage.database))
    for number in range(case.deaths):
        ended = children.run(stage.database, point=case.point, visit=case.visit)
        if number and ended == 0:
            break  # what was left to do did not come there any more
        assert ended == -signal.SIGKILL, f"{case.point} was not met {case.visit} times"
        state = verify(stage.database, drained=False, before=committed, content=_content)
        committed = snapshot(state)
    assert children.run(stage.database) == 0
    _check_whole(verify(stage.database, before=committed, content=_content))


def _content(text: str) -> list[str]:
    return check_sampled(text, whole=False)


def _check_whole(state: State) -> None:
    for job in state.jobs:
        tokens = LENGTHS[int(job["custom_id"].rsplit("-", 1)[1])]
        assert check_sampled(state.text(job).decode(), tokens=tokens) == [], job["custom_id"]
