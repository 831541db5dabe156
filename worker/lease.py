"""The lease of one worker: a thread that says that it lives, and looks for those that do not.

Promised: the lease is renewed only while the process really moves (its loop and its journal). When
it has run out, whatever the reason (suspended, cut off, stuck), nothing is claimed and no answer is
read until the database has been asked; then the worker goes on under a new id with those jobs that
nobody has taken, their streams still open. Not promised: that a stream whose job was taken stops in
the same moment. It writes nothing (the fence is in the row) and ends with its next beat, or, when
it is silent, with the next heartbeat.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

import tokenspool
from tokenspool.database import Database, DatabaseError
from tokenspool.store import ownership, workers

_log = logging.getLogger(__name__)
#: Parts of a lease: renewals and looks for the dead come every 5 s of its 45, so that the jobs of a
#: killed worker go on within a minute; loop and journal must have moved within 15 s; a renewal that
#: is more than half a lease late is suspicious.
RENEW, STUCK, LATE = 5 / 45, 15 / 45, 1 / 2
#: After a renewal that failed the next follows within this part, so that three fit into a lease.
AGAIN = 1 / 45
#: A connection that does not answer must not cost more than one renewal.
CONNECT_S, SILENT_MS = 5, 10_000


def boot_time() -> float:
    """Give a local clock that goes on while the machine sleeps, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a lease is taken on."""

    slots: int
    max_crashes: int = 10
    lease_s: float = workers.LEASE_S


class Lease:
    """One worker's row, kept alive from a thread and a connection of its own."""

    def __init__(
        self,
        database: Database,
        terms: Terms,
        *,
        still_for: Callable[[], float],
        on_taken: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        """Take nothing yet; both callables are called on the thread.

        `still_for` tells for how many seconds the process has not moved, `on_taken` hears that jobs
        were taken from the dead: they may be claimed at once.
        """
        self._database = database
        self._terms = terms
        self._still_for = still_for
        self._on_taken = on_taken
        self._clock = clock
        self.worker = workers.new_worker_id()
        #: What ended the thread, if something did that nobody foresaw.
        self.failure: Exception | None = None
        self._renewed_at = clock()
        self._reap_from = self._renewed_at
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def has_run_out(self) -> bool:
        """Whether others may have declared us dead by now; by the local clock, at any moment."""
        return self._clock() - self._renewed_at > self._terms.lease_s

    def take(self, connection: sa.Connection) -> None:
        """Register the worker; the lease holds once that is committed. May be tried again."""
        self._renewed_at = self._clock()
        if workers.lives(connection, self.worker):
            return  # it was committed, and the answer lost
        workers.register(
            connection,
            self.worker,
            version=tokenspool.__version__,
            slots=self._terms.slots,
            lease_s=self._terms.lease_s,
        )

    def start(self) -> None:
        """Keep it from now on."""
        self._thread.start()

    def stop(self, wait_s: float) -> None:
        """End the thread; after it no renewal and no new id comes. Waits so long at most."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def look(self) -> bool:
        """Renew, then look for the dead; False when we have not moved and must not renew."""
        asked_at = self._clock()
        if self._still_for() > STUCK * self._terms.lease_s:
            return False
        late = asked_at - self._renewed_at > LATE * self._terms.lease_s
        with self._database.write() as connection:
            kept = ownership.renew(connection, self.worker, lease_s=self._terms.lease_s)
        if not kept and not self._stopped.is_set():
            self._succeed()
        self._renewed_at = asked_at
        if late or not kept:
            # Whoever slept or was cut off sees others as dead who were cut off with it.
            self._reap_from = asked_at + self._terms.lease_s
        if asked_at >= self._reap_from and not self._stopped.is_set():
            self._reap()
        return True

    def _succeed(self) -> None:
        before, worker = self.worker, workers.new_worker_id()
        with self._database.write() as connection:
            jobs = ownership.succeed(
                connection,
                before,
                worker=worker,
                version=tokenspool.__version__,
                slots=self._terms.slots,
                lease_s=self._terms.lease_s,
            )
        self.worker = worker
        _log.warning("lease_ran_out worker=%s successor=%s jobs=%d", before, worker, jobs)

    def _reap(self) -> None:
        with self._database.write() as connection:
            jobs = ownership.reap(connection, max_crashes=self._terms.max_crashes)
        if jobs:
            _log.warning("taken_from_the_dead jobs=%d", jobs)
            self._on_taken()

    def _keep(self) -> None:
        # Soon after the start: who is new often takes the place of one that died.
        wait = AGAIN * self._terms.lease_s
        while not self._stopped.wait(wait):
            wait = AGAIN * self._terms.lease_s
            try:
                if self.look():
                    wait = RENEW * self._terms.lease_s
            except DatabaseError:
                # The journal says what is wrong with it; here it is only asked again.
                continue
            except Exception as error:  # noqa: BLE001 - raised where the work is
                self.failure = error
                return


def lease_database(database: Database) -> Database:
    """Open the database anew: the lease waits for no other thread, nor long for a dead line."""
    url = database.url
    if database.kind == "postgresql":
        limits = {"connect_timeout": str(CONNECT_S), "tcp_user_timeout": str(SILENT_MS)}
        url = url.update_query_dict(limits | dict(url.query))
    return Database(url.render_as_string(hide_password=False))


def end_silent_transactions(database: Database, after_s: float) -> None:
    """Let PostgreSQL end a transaction of ours that stands still for so long, and its locks.

    A process that is suspended, or cut off, in the middle of a beat would keep its jobs from
    everybody for as long as its connection lasts. Call it before the first connection is made.
    """
    if database.kind != "postgresql":
        return
    database.engine.dispose()
    limit = f"SET idle_in_transaction_session_timeout = {int(after_s * 1000)}"

    def prepare(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(limit)
        cursor.close()
        connection.commit()

    sa.event.listen(database.engine, "connect", prepare)
