"""Taking jobs in: all of an input becomes visible in one step, or none of it does."""

from tokenspool.store.intake.enqueue import enqueue
from tokenspool.store.intake.joined import enqueue_within
from tokenspool.store.intake.options import Enqueued, JobOptions, Listener

__all__ = ["Enqueued", "JobOptions", "Listener", "enqueue", "enqueue_within"]
