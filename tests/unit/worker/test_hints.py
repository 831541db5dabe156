"""Hints are sent from memory to memory, or not at all."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass

import pytest
from celery import Celery

from worker.broker import EXPIRES_S, Broker, sender
from worker.hints import Publisher, kick

MEMORY = Broker(url="memory://", queue="hints")
#: Nobody listens on port 1.
AWAY = Broker(url="redis://127.0.0.1:1/0")


@dataclass(frozen=True)
class Hinted:
    """A job that is offered."""

    job_id: int
    custom_id: str = "one"
    batch: str = "book"


def messages(app: Celery) -> list[dict[str, object]]:
    """Take what lies in the queue."""
    found = []
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("hints", no_ack=True)
        while queue.qsize():
            message = queue.get_nowait()
            found.append({"headers": message.headers, "body": json.loads(message.body)})
        queue.close()
    return found


def test_a_hint_says_id_and_name_and_expires() -> None:
    """Nothing else of the job ever leaves the database."""
    app = sender(MEMORY)
    publisher = Publisher(app, MEMORY)

    assert publisher.publish([Hinted(7)], offered=1)

    (message,) = messages(app)
    headers, body = message["headers"], message["body"]
    assert isinstance(headers, dict)
    assert isinstance(body, list)
    assert body[:2] == [[7], {"name": "book/one"}]
    assert (headers["task"], headers["argsrepr"]) == ("tokenspool.generate", "book/one")
    assert headers["expires"] is not None
    assert EXPIRES_S == 60
    publisher.close()


def test_a_broker_that_is_away_is_said_once_and_raises_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line for an outage, one when it is over."""
    publisher = Publisher(sender(AWAY), AWAY)

    assert not publisher.is_there()
    assert not publisher.publish([Hinted(1)], offered=1)

    assert [r.getMessage().split()[0] for r in caplog.records] == ["hints_unsent"]


def test_the_end_of_an_outage_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """So that nobody goes on looking for the fault."""
    caplog.set_level(logging.WARNING)
    publisher = Publisher(sender(MEMORY), MEMORY)
    publisher._is_away = True

    assert publisher.publish([Hinted(1)], offered=1)
    assert publisher.publish([Hinted(2)], offered=1)

    assert [r.getMessage() for r in caplog.records] == ["hints_sent_again"]
    messages(sender(MEMORY))
    publisher.close()


def test_a_queue_of_stale_hints_is_emptied_before_new_ones() -> None:
    """Never more than two for each job that is offered; what fits stays."""
    publisher = Publisher(sender(MEMORY), MEMORY)

    for job_id in range(1, 7):
        assert publisher.publish([Hinted(job_id)], offered=2)

    assert [message["body"][0] for message in messages(sender(MEMORY))] == [[5], [6]]  # type: ignore[index]
    publisher.close()


def test_a_kick_asks_for_dispatching() -> None:
    """One message, without anything in it."""
    assert kick(MEMORY)

    (message,) = messages(sender(MEMORY))
    assert isinstance(message["headers"], dict)
    assert message["headers"]["task"] == "tokenspool.dispatch"
    assert message["body"][:2] == [[], {}]  # type: ignore[index]


def test_a_kick_gives_up_in_time() -> None:
    """A service is not held by a broker that is away."""
    began = time.monotonic()

    assert not kick(AWAY, wait_s=0.5)

    assert time.monotonic() - began < 5
