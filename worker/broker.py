"""The broker: where it is, and how Celery shall use it so that losing it costs nothing.

All that matters stands in the database. A message only wakes somebody: it may be lost, come twice
or come late, and each setting here is chosen with that in mind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.entity import Queue
from kombu.transport import TRANSPORT_ALIASES

from tokenspool.errors import UsageError

#: A hint that nobody took within this time is of no use: the window has been offered anew.
EXPIRES_S = 60
#: Whoever publishes waits no longer than this for a connection or an answer, in seconds.
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where hints go. Raises UsageError for a URL that is none, without showing it."""

    #: It may hold a password: never show it.
    url: str = field(repr=False)
    #: Fleets that share a broker need a name each.
    queue: str = "tokenspool"

    def __post_init__(self) -> None:
        """Refuse what Celery could only answer with a traceback."""
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in TRANSPORT_ALIASES and "://" in self.url
            _ = parts.port
        except ValueError:
            known = False
        if not known:
            msg = (
                "the broker's URL is none that Celery knows: give --broker or TOKENSPOOL_BROKER_URL"
                " as redis://HOST:6379/0 or amqp://USER:PASSWORD@HOST:5672//"
            )
            raise UsageError(msg)

    @property
    def is_redis(self) -> bool:
        """Whether it is a Redis."""
        return urlsplit(self.url).scheme in {"redis", "rediss"}

    @property
    def publishing(self) -> dict[str, object]:
        """Give what a publisher's connection is told: to give up soon."""
        if self.is_redis:
            return {"socket_connect_timeout": PATIENCE_S, "socket_timeout": PATIENCE_S}
        return {
            "connect_timeout": PATIENCE_S,
            "read_timeout": PATIENCE_S,
            "write_timeout": PATIENCE_S,
        }

    def configuration(self) -> dict[str, Any]:
        """Give Celery's settings."""
        return {
            "broker_url": self.url,
            "task_queues": [self._queue()],
            "task_default_queue": self.queue,
            "task_default_exchange": self.queue,
            "task_default_routing_key": self.queue,
            # Nothing that a message could make Python do: names and numbers.
            "accept_content": ["json"],
            "task_serializer": "json",
            "event_serializer": "json",
            # Acknowledged when taken: a message that is held for hours is given out a second time
            # (Redis), closes the channel (RabbitMQ), and a worker that holds one does not survive
            # losing its broker.
            "task_acks_late": False,
            "task_reject_on_worker_lost": False,
            # What became of a job stands in the database; a second place could only disagree.
            "task_ignore_result": True,
            "task_store_errors_even_if_ignored": False,
            # A hint that waits inside a full worker helps nobody: fetch few ahead.
            "worker_prefetch_multiplier": 1,
            # Redis only, elsewhere it warns: fetch none at all while all threads are busy.
            "worker_disable_prefetch": self.is_redis,
            # After a reconnect Celery would fetch less for as long as what runs goes on: for hours.
            "worker_enable_prefetch_count_reduction": False,
            # With early acknowledgement a lost connection puts nothing in doubt: let streams go on.
            "worker_cancel_long_running_tasks_on_connection_loss": False,
            # Draining is ours, and done in seconds; Celery shall add no wait of its own.
            "worker_soft_shutdown_timeout": 0.0,
            # We send none with a delay, and hold none for others: delays stand in the database.
            "worker_eta_task_limit": 1000,
            "worker_enable_remote_control": True,
            # So that Flower and `celery events` show jobs without being asked to switch it on.
            "worker_send_task_events": True,
            # Whoever stopped looking must not fill the broker's memory.
            "event_queue_ttl": 5.0,
            "event_queue_expires": 60.0,
            # A broker that is away is waited for, at the start too: work goes on by polling.
            "broker_connection_retry_on_startup": True,
            "broker_connection_retry": True,
            "broker_connection_max_retries": None,
            "broker_connection_timeout": 3.0,
            # RabbitMQ closes the channel when a full worker has not begun a fetched hint for half
            # an hour: then fetch anew, instead of ending for it.
            "broker_channel_error_retry": True,
            "broker_transport_options": self._transport(),
            # A hint that could not be sent is not worth a second try: its job is found by polling.
            "task_publish_retry": False,
            "worker_consumer": "worker.consumer:Consumer",
            "worker_hijack_root_logger": False,
            "enable_utc": True,
            "timezone": "UTC",
        }

    def _queue(self) -> Queue:
        # Survives the loss of a RabbitMQ node; Redis does not look at the argument.
        arguments = {"x-queue-type": "quorum"}
        return Queue(self.queue, queue_arguments=arguments)  # type: ignore[no-untyped-call]

    def _transport(self) -> dict[str, object]:
        if not self.is_redis:
            return {}
        return {
            # Of a message that a worker took and died with; ours are acknowledged long before.
            "visibility_timeout": 3600,
            # A firewall that forgets an idle connection is noticed.
            "socket_keepalive": True,
            "health_check_interval": 25,
            "socket_connect_timeout": 3.0,
            # Others may live in the same Redis.
            "global_keyprefix": f"{self.queue}:",
        }


def sender(broker: Broker) -> Celery:
    """Make an app that only sends, and is nobody's current one."""
    app = Celery("tokenspool", set_as_current=False)
    app.config_from_object(broker.configuration())
    return app
