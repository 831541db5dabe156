"""When a worker with a broker claims without a hint."""

from __future__ import annotations

import pytest

from worker.patience import STARVED_S, UNHINTED_S, Patience


class Clock:
    """A clock that is turned by hand."""

    now = 100.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def patience(clock: Clock) -> Patience:
    """Give what begins with the first look."""
    return Patience(clock=clock)


def test_new_work_is_left_to_its_hint_for_a_while(patience: Patience, clock: Clock) -> None:
    """However long there was none before."""
    clock.now += 3600
    assert patience.saw(work=True, free=True)
    assert not patience.is_over

    clock.now += UNHINTED_S
    assert not patience.saw(work=True, free=True)
    assert patience.is_over


def test_a_hint_begins_the_wait_anew(patience: Patience, clock: Clock) -> None:
    """Hints come: there is no need to claim beside them."""
    patience.saw(work=True, free=True)
    clock.now += UNHINTED_S
    patience.met()

    assert not patience.is_over


def test_slots_that_stay_free_beside_hints_are_filled(patience: Patience, clock: Clock) -> None:
    """Hints may come for one endpoint and be lost for another."""
    patience.saw(work=True, free=True)
    clock.now += STARVED_S
    patience.met()

    assert patience.is_over


def test_without_work_nothing_is_waited_for(patience: Patience, clock: Clock) -> None:
    """Work that ended and work that came later are not the same."""
    patience.saw(work=True, free=True)
    clock.now += STARVED_S
    patience.saw(work=False, free=True)

    assert not patience.is_over


def test_who_fills_its_slots_without_hints_goes_on_so(patience: Patience, clock: Clock) -> None:
    """A broker that is away costs its seconds once, not with every job's end."""
    patience.saw(work=True, free=True)
    clock.now += UNHINTED_S
    patience.saw(work=True, free=False)
    clock.now += 60

    assert patience.is_over
