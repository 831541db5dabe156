"""Waking a fleet's workers when there is something new to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.printing import say

if TYPE_CHECKING:  # without a broker nobody waits for Celery
    from tokenspool.database import Database
    from tokenspool.settings import Settings
    from worker.broker import Broker


def broker_of(settings: Settings) -> Broker | None:
    """Give the broker of the settings, if they name one. Raises UsageError for a wrong URL."""
    if not settings.broker_url:
        return None
    from worker.broker import Broker  # noqa: PLC0415 - see above

    return Broker(url=settings.broker_url, queue=settings.broker_queue)


def wake(broker: Broker | None, database: Database) -> None:
    """Wake a worker of the fleet that shares the database, within about two seconds."""
    if broker is None or database.kind != "postgresql":
        return
    from worker.hints import kick  # noqa: PLC0415 - see above

    if not kick(broker):
        say("note: the broker does not answer; workers find the jobs by looking, but later")
