"""The broker's side of a fleet: which hints wait, which were taken, and more of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.contract.brokers import Place
from tests.crash.fleet_stage import FleetStage
from worker.broker import Broker, sender
from worker.hints import GENERATE


@dataclass(frozen=True, slots=True)
class Hints:
    """The hints of one fleet."""

    place: Place

    def wake(self, stage: FleetStage) -> None:
        """Let all commands of the stage use this broker."""
        stage.environment["TOKENSPOOL_BROKER_URL"] = self.place.url
        stage.environment["TOKENSPOOL_BROKER_QUEUE"] = self.place.queue

    def send(self, job_ids: Iterable[int]) -> None:
        """Send one more hint for each of these jobs; they never expire."""
        app = sender(self._broker)
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for job_id in job_ids:
                app.send_task(GENERATE, args=(job_id,), producer=producer)

    def waiting(self) -> int:
        """Give how many messages lie in the queue."""
        with sender(self._broker).connection_for_read() as connection:
            # As the product declares it. Asked passively, a Redis knows no queue with a prefix.
            declared = connection.default_channel.queue_declare(
                self.place.queue,
                durable=True,
                auto_delete=False,
                arguments={"x-queue-type": "quorum"},
            )
        count: int = declared.message_count
        return count

    def taken(self) -> dict[str, int]:
        """Give how many hints each Celery worker has taken; those that do not answer are absent."""
        app = sender(self._broker)
        with app.connection_for_write() as connection:
            said = app.control.inspect(timeout=2, connection=connection).stats() or {}
        return {name: one["total"].get(GENERATE, 0) for name, one in said.items()}

    @property
    def _broker(self) -> Broker:
        return Broker(url=self.place.url, queue=self.place.queue)
