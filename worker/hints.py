"""Hints: messages that wake workers. One that cannot be sent costs time, never work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from celery import Celery
from kombu.connection import Connection

from worker.broker import EXPIRES_S, PATIENCE_S, Broker, sender

_log = logging.getLogger(__name__)
GENERATE, DISPATCH = "tokenspool.generate", "tokenspool.dispatch"
#: Hints in the queue for each job that is offered, at most.
_MOST_PER_JOB = 2


class Hint(Protocol):
    """What a hint says: which job is to be run, and what people call it; nothing else."""

    @property
    def job_id(self) -> int:
        """The job's number."""
        ...

    @property
    def batch(self) -> str:
        """The name of its batch."""
        ...

    @property
    def custom_id(self) -> str:
        """Its name in the batch."""
        ...


class Publisher:
    """Sends hints from one thread, over one connection; never raises."""

    def __init__(self, app: Celery, broker: Broker) -> None:
        """Connect when it is first needed."""
        self._app = app
        self._broker = broker
        self._connection: Connection | None = None
        self._is_away = False

    def is_there(self) -> bool:
        """Whether the broker answers; asks it where there is no connection yet."""
        try:
            self._connected().default_channel  # noqa: B018 - opens it
        except Exception as error:  # noqa: BLE001 - each transport has errors of its own
            self._lost(error)
            return False
        return True

    def publish(self, hints: Sequence[Hint], *, offered: int) -> bool:
        """Send a hint for each job; False when the broker did not take them all.

        `offered` is how many jobs have a hint by then. A queue that would hold more than twice as
        many holds stale ones, for only RabbitMQ forgets them by itself: it is emptied before.
        """
        try:
            with self._app.amqp.Producer(self._connected(), auto_declare=False) as producer:
                if self._waiting(producer.channel) + len(hints) > _MOST_PER_JOB * offered:
                    producer.channel.queue_purge(queue=self._broker.queue)
                for hint in hints:
                    # The name is for people: Flower shows the texts, `celery inspect` the values.
                    name = f"{hint.batch}/{hint.custom_id}"
                    self._app.send_task(
                        GENERATE,
                        args=(hint.job_id,),
                        kwargs={"name": name},
                        producer=producer,
                        expires=EXPIRES_S,
                        argsrepr=name,
                        kwargsrepr="",
                    )
        except Exception as error:  # noqa: BLE001 - each transport has errors of its own
            self._lost(error)
            return False
        if self._is_away:
            self._is_away = False
            _log.warning("hints_sent_again")
        return True

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.release()  # type: ignore[no-untyped-call]

    def _waiting(self, channel: Any) -> int:  # noqa: ANN401 - each transport has its own
        """Count what lies in the queue, which is made where nobody has done so yet."""
        queue = self._app.amqp.queues[self._broker.queue]
        declared = channel.queue_declare(
            queue=queue.name,
            durable=queue.durable,
            exclusive=queue.exclusive,
            auto_delete=queue.auto_delete,
            arguments=queue.queue_arguments,
        )
        return int(declared.message_count)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._app.connection_for_write(
                connect_timeout=PATIENCE_S, transport_options=self._broker.publishing
            )
        self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=PATIENCE_S)
        return self._connection

    def _lost(self, error: Exception) -> None:
        self.close()
        if not self._is_away:
            self._is_away = True
            _log.warning("hints_unsent error=%s: jobs are found by polling", type(error).__name__)


def kick(broker: Broker | str, *, wait_s: float = PATIENCE_S) -> bool:
    """Let a worker offer what was just enqueued; False when the broker did not take it in time.

    For services too, which may give the broker's URL: call it after the commit, and do nothing
    when it fails. Raises nothing but UsageError for a URL that is none.
    """
    where = Broker(url=broker) if isinstance(broker, str) else broker
    sent, over = threading.Event(), threading.Event()

    def send() -> None:
        with suppress(Exception):
            app = sender(where)
            with app.connection_for_write(
                connect_timeout=wait_s, transport_options=where.publishing
            ) as connection:
                app.send_task(DISPATCH, connection=connection, expires=EXPIRES_S)
                sent.set()
        over.set()

    # A thread can be left behind; a name that is looked up for a minute can not be hurried.
    threading.Thread(target=send, name="kick", daemon=True).start()
    over.wait(wait_s)
    return sent.is_set()
