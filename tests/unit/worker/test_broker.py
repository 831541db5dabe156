"""Where the broker is, and what Celery is told."""

from __future__ import annotations

import pytest

from tokenspool.errors import UsageError
from worker.broker import Broker, sender


@pytest.mark.parametrize(
    "url", ["", "redis", "me:secret@here", "radish://me:secret@here/0", "redis://me:secret@h:port"]
)
def test_a_url_that_is_none_is_refused_without_showing_it(url: str) -> None:
    """It may hold a password."""
    with pytest.raises(UsageError) as refused:
        Broker(url=url)

    assert "TOKENSPOOL_BROKER_URL" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_it_never_shows_its_password() -> None:
    """Values land in logs."""
    assert "secret" not in repr(Broker(url="redis://me:secret@here/0"))


@pytest.mark.parametrize("url", ["redis://here/0", "amqp://here//"])
def test_losing_a_message_or_the_broker_costs_nothing(url: str) -> None:
    """Acknowledged at once, kept by nobody, waited for without end."""
    conf = sender(Broker(url=url, queue="mine")).conf

    assert conf.task_acks_late is False
    assert conf.task_ignore_result is True
    assert conf.accept_content == ["json"]
    assert conf.broker_connection_max_retries is None
    assert conf.broker_connection_retry_on_startup is True
    (queue,) = conf.task_queues
    assert (queue.name, queue.queue_arguments) == ("mine", {"x-queue-type": "quorum"})


def test_fleets_that_share_a_redis_keep_apart() -> None:
    """Each key begins with the queue's name."""
    conf = sender(Broker(url="redis://here/0", queue="mine")).conf

    assert conf.broker_transport_options["global_keyprefix"] == "mine:"
