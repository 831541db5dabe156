"""The Celery app: two tasks, and the worker that starts and ends with a Celery worker.

`tokenspool worker --broker URL` starts it; so does `celery -A worker.app worker -P threads -c 500`.
Importing it touches neither database nor broker.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from celery import Celery, Task, bootsteps
from celery.concurrency import get_implementation
from celery.concurrency.thread import TaskPool
from celery.platforms import EX_FAILURE
from celery.signals import worker_init, worker_shutdown, worker_shutting_down
from celery.utils.nodenames import gethostname, nodename

from tokenspool import settings
from tokenspool.database import Database
from tokenspool.errors import TokenspoolError, UsageError
from worker.broker import Broker
from worker.fleet import FleetOptions, shared
from worker.hints import DISPATCH, GENERATE
from worker.host import Host, say
from worker.process import RunResult
from worker.tuning import tuning

_log = logging.getLogger(__name__)
#: What `celery -b URL` leaves behind for the app.
_CELERYS_OWN = "CELERY_BROKER_URL"


class App(Celery):
    """Celery with a worker of ours beside it."""

    #: Where the hints of this app go; None until it is needed.
    broker: Broker | None = None
    #: What the worker is given; None: the settings say it.
    options: FleetOptions | None = None
    host: Host | None = None

    def on_configure(self) -> None:
        """Take the settings, when somebody first needs them."""
        if self.broker is None:
            try:
                self.broker = _broker_of(settings.load())
            except UsageError as error:
                say(str(error))
                raise SystemExit(error.exit_code) from error
        self.config_from_object(self.broker.configuration())


class _Beside(bootsteps.StartStopStep):
    """Lets our worker end where Celery ends without the signal that we wait for."""

    def start(self, parent: object) -> None:
        """Drain on the two signals that Celery answers by starting anew, or by waiting for jobs."""
        del parent
        host = _host_of(app)
        # A terminal that closes hangs up twice: its kernel does, and its shell.
        signal.signal(signal.SIGHUP, lambda *_: host.ask())
        if not host.is_ending:
            signal.signal(signal.SIGQUIT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    def close(self, parent: Any) -> None:  # noqa: ANN401 - Celery has no types
        """Drain with a Celery that was shut down from afar; go on without one that has failed."""
        if app.host is None or app.host.is_ending:
            return
        if parent.exitcode == EX_FAILURE:
            _log.error("celery_failed: work goes on by polling; start it anew to be woken again")
            app.host.work_alone()
        else:
            app.host.drain()


app = App("tokenspool")
app.steps["worker"].add(_Beside)


@app.task(name=GENERATE, bind=True)
def generate(task: Task, job_id: int, *, name: str = "") -> None:
    """Run a job: the best one at this moment, which as a rule is the one that is named."""
    del name  # for people who look at what runs
    _host(task).generate(job_id)


@app.task(name=DISPATCH, bind=True)
def dispatch(task: Task) -> None:
    """Offer the fleet what there is to do."""
    _host(task).dispatch()


def work_with_broker(options: FleetOptions, broker: Broker) -> RunResult:
    """Work until stopped, woken by hints; the command line's way in."""
    app.options, app.broker = options, broker
    worker = app.Worker(
        pool="threads",
        concurrency=options.tuning.streams,
        hostname=nodename(f"tokenspool-{os.getpid()}", gethostname()),
        loglevel="WARNING",
        quiet=True,
        redirect_stdouts=False,
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    return _host_of(app).join()


@worker_init.connect
def _begin(sender: Any, **_: object) -> None:  # noqa: ANN401 - Celery has no types
    """Start to work before the broker is asked for."""
    if sender.app is not app or app.host is not None:
        return
    try:
        _must_be_threads(sender.pool_cls)
        options = app.options or _options(slots=sender.concurrency)
        broker = app.broker or _broker_of(settings.load())
        app.host = Host(options, app=app, broker=broker)
    except TokenspoolError as error:
        say(str(error))
        # Celery would log any other error and go on without us.
        raise SystemExit(error.exit_code) from error
    app.host.start()


@worker_shutting_down.connect
def _drain(**_: object) -> None:
    """Drain, at the first sign."""
    if app.host is not None:
        app.host.drain()


@worker_shutdown.connect
def _outlive(sender: Any, **_: object) -> None:  # noqa: ANN401 - Celery has no types
    """Stay when Celery has failed: a main thread that ends takes every executor with it."""
    if app.host is None or sender.app is not app or sender.exitcode != EX_FAILURE:
        return
    result = app.host.join()
    logging.shutdown()
    os._exit(result.exit_code)


def _host(task: Task) -> Host:
    return _host_of(task.app)


def _host_of(of: App) -> Host:
    if of.host is None:
        msg = "there is no worker in this process: a hint is met by `tokenspool worker`"
        raise UsageError(msg)
    return of.host


def _must_be_threads(pool: object) -> None:
    if not issubclass(get_implementation(pool), TaskPool):
        msg = "all streams share one event loop, so the pool must be threads: add -P threads"
        raise UsageError(msg)


def _options(*, slots: object) -> FleetOptions:
    """Give what a worker is given by the settings; Celery's concurrency is its streams."""
    if not isinstance(slots, int):
        msg = f"a slot is a thread of Celery's: say how many with -c N, not -c {slots}"
        raise UsageError(msg)
    found = settings.load(streams=slots)
    if not found.database_url:
        msg = "say which database the fleet shares: set TOKENSPOOL_DATABASE_URL to postgresql://…"
        raise UsageError(msg)
    database = Database(found.database_url)
    shared(database)
    return FleetOptions(
        tuning=tuning(database, found), max_crashes=found.max_crashes, on_waiting=_log_why
    )


def _broker_of(found: settings.Settings) -> Broker:
    url = os.environ.get(_CELERYS_OWN) or found.broker_url
    if not url:
        msg = "say where hints go: set TOKENSPOOL_BROKER_URL; `tokenspool worker` needs none"
        raise UsageError(msg)
    return Broker(url=url, queue=found.broker_queue)


def _log_why(waiting: tuple[str, ...]) -> None:
    for reason in waiting or ("it goes on",):
        _log.warning("%s", reason)
