"""`tokenspool worker`: work off a PostgreSQL together with others, until stopped."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.invocation import Invocation
from cli.logs import log_to_stderr
from cli.options import command_app, invocation
from cli.printing import say
from cli.waking import broker_of
from tokenspool.settings import Settings
from worker.fleet import FleetOptions, shared, work_in_fleet
from worker.process import RunResult
from worker.supervisor import SUPERVISED, Supervisor, drain_with_parent
from worker.tuning import tuning

if TYPE_CHECKING:  # without a broker nobody waits for Celery
    from worker.broker import Broker

app = command_app()


@app.command()
def worker(
    ctx: typer.Context,
    *,
    streams: Annotated[
        int | None, typer.Option(min=1, help="Streams at once, of each process.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes; one for each core to be used.")
    ] = 1,
) -> int:
    """Work off the jobs of a PostgreSQL until stopped; any number of workers may."""
    asked = invocation(ctx)
    log_to_stderr(debug=asked.debug)
    settings = asked.settings(streams=streams)
    with asked.database(settings, folder=None) as database:
        broker = broker_of(settings)
        shared(database)
        if processes > 1:
            url = database.url.render_as_string(hide_password=False)
            database.engine.dispose()
            say(f"{processes} workers with {settings.streams} streams each on {database.name}")
            return _supervise(asked, settings, url, processes)
        if SUPERVISED not in os.environ:
            say(f"a worker with {settings.streams} streams on {database.name}")
        options = FleetOptions(
            tuning=tuning(database, settings),
            max_crashes=settings.max_crashes,
            on_waiting=_say_why,
            on_start=drain_with_parent,
        )
        result = _work(options, broker)
    if result.reason:
        say(result.reason)
    return result.exit_code


def _work(options: FleetOptions, broker: Broker | None) -> RunResult:
    if broker is None:
        return work_in_fleet(options)
    from worker.app import work_with_broker  # noqa: PLC0415 - see above

    return work_with_broker(options, broker)


def _supervise(asked: Invocation, settings: Settings, url: str, processes: int) -> int:
    command = [sys.executable, "-P", "-m", "tokenspool", "worker"]
    command += ["--streams", str(settings.streams)]
    command += ["--debug"] if asked.debug else []
    # Not as options: everybody on the machine may read those, and the URLs hold passwords.
    environment = {"TOKENSPOOL_DATABASE_URL": url}
    if settings.broker_url:
        environment["TOKENSPOOL_BROKER_URL"] = settings.broker_url
    return Supervisor(command=command, processes=processes, environment=environment).run()


def _say_why(waiting: tuple[str, ...]) -> None:
    for reason in waiting or ("it goes on",):
        say(reason)
