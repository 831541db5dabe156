"""The thread that keeps a window of hints published."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import cast

import pytest

from tokenspool.database import DatabaseError
from worker.dispatcher import Dispatcher, Offer
from worker.hints import Hint, Publisher


class Wire:
    """A publisher whose broker is there or not."""

    def __init__(self) -> None:
        self.there = True
        self.offered = 0
        self.sent: list[object] = []
        self.closed = threading.Event()

    def is_there(self) -> bool:
        """Tell."""
        return self.there

    def publish(self, hints: Iterable[Hint], *, offered: int) -> bool:
        """Remember what was sent."""
        self.sent += hints
        self.offered = offered
        return True

    def close(self) -> None:
        """Remember the end."""
        self.closed.set()


class Window:
    """What is to be offered next."""

    def __init__(self) -> None:
        self.hints: list[str] = []
        self.filled = 0
        self.looked = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> Offer:
        """Fill it."""
        self.filled += 1
        self.looked.set()
        error, self.error = self.error, None
        if error is not None:
            raise error
        hints, self.hints = self.hints, []
        return Offer(cast("list[Hint]", hints), len(hints) + 5)


@pytest.fixture
def wire() -> Wire:
    """Give a broker that is there."""
    return Wire()


@pytest.fixture
def window() -> Window:
    """Give an empty window."""
    return Window()


def dispatcher(window: Window, wire: Wire) -> Dispatcher:
    """Make a dispatcher."""
    return Dispatcher(window, cast("Publisher", wire))


def test_what_was_filled_is_published(window: Window, wire: Wire) -> None:
    """After the commit: the fill has returned."""
    window.hints = ["a", "b"]

    assert dispatcher(window, wire).look() == 2

    assert wire.sent == ["a", "b"]
    assert wire.offered == 7


def test_nothing_is_offered_while_nobody_can_be_told(window: Window, wire: Wire) -> None:
    """Jobs stay pending, and are polled for."""
    wire.there = False

    assert dispatcher(window, wire).look() == 0

    assert window.filled == 0


@pytest.mark.parametrize("error", [DatabaseError("x", "away", passing=True), ValueError("odd")])
def test_a_fill_that_fails_is_tried_again(window: Window, wire: Wire, error: Exception) -> None:
    """Without hints the work goes on; the next look may succeed."""
    window.error = error
    running = dispatcher(window, wire)
    running.start()
    assert window.looked.wait(5)
    window.looked.clear()

    running.nudge()

    assert window.looked.wait(5)
    running.stop()
    assert wire.closed.wait(5)
