"""Celery's consumer without what we never use."""

from __future__ import annotations

from celery.worker.consumer import Consumer as Whole


class Consumer(Whole):
    """Leaves out delayed delivery: delays stand in the database.

    For a quorum queue it would make 28 queues on the broker that never see a message.
    """

    class Blueprint(Whole.Blueprint):
        """The steps, in Celery's order."""

        default_steps = tuple(
            step for step in Whole.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        )
