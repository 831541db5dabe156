"""The worker that lives in a Celery process: its thread and loop, and how the two end together.

Celery brings hints and shows what runs; the work needs neither it nor its broker. So the host
starts before the broker is asked for, works on when Celery has lost it, and decides when the
process ends: a Celery that hangs on a broker that is away is not waited for.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

from celery import Celery

from tokenspool.errors import TokenspoolError
from worker.broker import Broker
from worker.demands import Demands
from worker.dispatcher import Dispatcher, filling
from worker.fleet import FleetOptions, FleetWorker
from worker.hints import Publisher
from worker.lease import lease_database
from worker.process import INTERRUPTED, OUT_OF_REACH, RunResult, run_on_loop

_log = logging.getLogger(__name__)
#: A signal to the end of the process, at most, in seconds; draining takes most of it.
LEAVE_S = 4.8
#: What Celery gets of it, at least, for saying goodbye to its broker.
GOODBYE_S = 0.3


class Host:
    """One worker of a fleet beside one Celery worker; made and started in the main thread."""

    def __init__(self, options: FleetOptions, *, app: Celery, broker: Broker) -> None:
        """Wire everything; nothing has been touched yet."""
        self._demands = Demands()
        # Read by one thread alone, so that a slow fill makes nobody wait.
        self._database = lease_database(options.tuning.database)
        fill = filling(self._database, lookahead=options.tuning.streams)
        self._dispatcher = Dispatcher(fill, Publisher(app, broker))
        self._told = options.on_start
        self._options = replace(
            options,
            demands=self._demands,
            on_free=self._dispatcher.nudge,
            on_start=self._started,
        )
        self._drain: Callable[[], None] | None = None
        self._ready = threading.Event()
        self._asked = threading.Event()
        # Whether a person's signal came, and whether the next one to be met is none.
        self._signed, self._gentle = False, False
        self.result: RunResult | None = None
        # No daemon: the interpreter waits for it, whatever becomes of Celery.
        self._thread = threading.Thread(target=self._run, name="host")
        # There from the start: a signal's handler may not start one.
        self._leaver = threading.Thread(target=self._leave, name="leaver", daemon=True)

    @property
    def is_ending(self) -> bool:
        """Whether it was asked to drain."""
        return self._asked.is_set()

    def start(self) -> None:
        """Begin to work."""
        for number in (signal.SIGINT, signal.SIGTERM):
            # Celery puts its own in their place once it is ready for them.
            signal.signal(number, self._signalled)
        self._leaver.start()
        self._thread.start()

    def generate(self, job_id: int) -> None:
        """Meet a hint; return when the job that it brought has left its slot, if it brought one."""
        self._demands.ask(job_id)

    def dispatch(self) -> None:
        """Fill the window at once."""
        self._dispatcher.nudge()

    def work_alone(self) -> None:
        """Go on by polling: Celery has failed, and who takes no hints shall send none."""
        self._dispatcher.stop()

    def ask(self) -> None:
        """Have it drained, by a sign that may come twice for one wish; from any thread.

        A supervisor's pipe closes and a terminal hangs up beside the signal that means the same.
        """
        if not self._asked.is_set():
            self._gentle = True
            # Through a signal, so that Celery learns of it too.
            os.kill(os.getpid(), signal.SIGTERM)

    def drain(self) -> None:
        """Stop claiming, give the jobs back and end, in time; signalled again, leave at once.

        For the main thread alone, which is where signals come.
        """
        signed, self._gentle = not self._gentle, False
        if signed and self._signed:
            os._exit(INTERRUPTED)
        self._signed = self._signed or signed
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, self._signalled)
        self._asked.set()

    def join(self) -> RunResult:
        """Wait for its end; tell how it was. Its reason has been said."""
        self._thread.join()
        code = OUT_OF_REACH if self.result is None else self.result.exit_code
        return RunResult(exit_code=code)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self.drain()

    def _started(self, drain: Callable[[], None]) -> None:
        """Learn, on the loop, how to drain; the signal may have come before."""
        self._drain = drain
        self._ready.set()
        self._dispatcher.start()
        if self._told is not None:
            self._told(self.ask)

    def _leave(self) -> None:
        """Once it was asked for, drain and end the process in time, whatever Celery does."""
        self._asked.wait()
        until = time.monotonic() + LEAVE_S
        self._ready.wait(LEAVE_S)
        if self._drain is not None:
            self._drain()
        self._thread.join(max(0.0, until - time.monotonic()))
        if self.result is None:
            os._exit(INTERRUPTED)
        time.sleep(max(GOODBYE_S, (until - time.monotonic()) / 2))
        os._exit(self.result.exit_code)

    def _run(self) -> None:
        try:
            self.result = run_on_loop(lambda: FleetWorker(self._options), signals=False)
        except TokenspoolError as error:
            self.result = RunResult(exit_code=error.exit_code, reason=str(error))
        except Exception as error:  # noqa: BLE001 - the door of its thread
            _log.exception("the worker ended")
            reason = f"this is a fault of tokenspool itself ({type(error).__name__}: {error})"
            self.result = RunResult(exit_code=OUT_OF_REACH, reason=reason)
        finally:
            self._demands.close()
            self._dispatcher.stop()
        if self.result.reason:
            say(self.result.reason)
        if not self._asked.is_set():
            # It cannot work, and a Celery without it would only swallow hints.
            os._exit(self.result.exit_code)


def say(sentence: str) -> None:
    """Say a sentence to a person, also where Celery has taken standard error for its log."""
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"tokenspool: {sentence}\n")
        sys.__stderr__.flush()
