"""The dispatcher: keeps a window of hints published, from a thread and connections of its own."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenspool.database import Database, DatabaseError
from tokenspool.store import dispatching
from worker.hints import Hint, Publisher

_log = logging.getLogger(__name__)
#: The window is looked at this often, in seconds; the jitter keeps a fleet from doing it at once.
LOOK_S, JITTER = 2.0, 0.25
#: However often it is nudged.
LEAST_S = 0.5
#: A job whose hint nobody took for so long is offered anew.
HINT_S = 30.0


@dataclass(frozen=True, slots=True)
class Offer:
    """What a look at the window gives."""

    #: To be published.
    hints: Sequence[Hint] = ()
    #: All jobs that are offered, these among them.
    jobs: int = 0


class Dispatcher:
    """Offers the best jobs to the fleet; every worker has one, the database lets one work."""

    def __init__(self, fill: Callable[[], Offer], publisher: Publisher) -> None:
        """`fill` moves jobs into the window and commits; its hints are published afterwards."""
        self._fill = fill
        self._publisher = publisher
        self._nudged = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def nudge(self) -> None:
        """Look soon; from any thread."""
        self._nudged.set()

    def stop(self) -> None:
        """End after what is under way; from any thread, without waiting."""
        self._stopped.set()
        self._nudged.set()

    def look(self) -> int:
        """Fill the window and publish its hints; give how many there were."""
        # Where nobody can be told, nothing needs to be offered: pending jobs are polled for.
        if not self._publisher.is_there():
            return 0
        offer = self._fill()
        if offer.hints:
            self._publisher.publish(offer.hints, offered=offer.jobs)
        return len(offer.hints)

    def _keep(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            self._nudged.clear()
            try:
                self.look()
            except DatabaseError:
                pass  # the journal says what is wrong with it
            except Exception:  # noqa: BLE001 - without hints the work goes on: nothing may end it
                _log.exception("the window could not be filled")
            self._stopped.wait(LEAST_S)
            left = LOOK_S * random.uniform(1 - JITTER, 1) - (time.monotonic() - began)  # noqa: S311
            self._nudged.wait(max(0.0, left))
        self._publisher.close()


def filling(database: Database, *, lookahead: int, hint_s: float = HINT_S) -> Callable[[], Offer]:
    """Give what fills the window of this database, in one transaction each time."""

    def fill() -> Offer:
        with database.write() as connection:
            hints = dispatching.fill_window(connection, lookahead=lookahead, hint_s=hint_s)
            return Offer(hints, dispatching.dispatched(connection) if hints else 0)

    return fill
