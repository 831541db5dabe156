"""The gate: an endpoint in trouble is paused for all, tried again with one, and comes back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from pipeline.ports import Ask
from tokenspool.errors import ErrorKind, StreamError
from worker import gate as gate_module
from worker.gate import PROBE_CAP_S, PROBE_S, RETRY_AFTER_CAP_S, SERVER_ERRORS, Gate
from worker.limits.book import Grant
from worker.limits.rates import Rates

DOWN = StreamError(ErrorKind.CONNECT, "connection refused")
BUSY = StreamError(ErrorKind.RATE_LIMITED, "too many requests")
SERVER = StreamError(ErrorKind.SERVER, "internal error")


@dataclass
class Time:
    """A clock that is told the time."""

    at: float = 1000.0

    def gate(self, slots: int = 8, **rates: int) -> Gate:
        """Make a gate on it."""
        return Gate(slots, rates=Rates(**rates), clock=lambda: self.at)


def test_it_begins_open_with_room_for_every_slot() -> None:
    """Nothing is known against the endpoint."""
    gate = Time().gate()
    gate.in_flight = 3

    assert gate.is_open
    assert gate.room() == 5
    assert (gate.state.state, gate.state.reason, gate.state.retry_in_s) == ("up", None, None)


def test_an_endpoint_that_is_down_is_tried_with_one_after_a_pause() -> None:
    """Ten thousand jobs do not burn their attempts on it."""
    time = Time()
    gate = time.gate()

    gate.failed(DOWN)
    paused = gate.room()
    time.at += 1.3 * PROBE_S

    assert (paused, gate.room()) == (0, 1)
    assert not gate.is_open
    assert gate.down_since == 1000.0
    assert (gate.state.state, gate.reason) == ("down", "connection refused")


def test_it_comes_back_at_one_and_doubles() -> None:
    """A server that just started is not met by all of them at once."""
    time = Time()
    gate = time.gate(slots=6)
    gate.failed(DOWN)
    time.at += 60

    rooms = []
    for _ in range(4):
        gate.answered()
        gate.spoke()
        rooms.append(gate.room())

    assert rooms == [2, 4, 6, 6]
    assert gate.is_open
    assert gate.down_since is None


def test_its_pauses_double_to_their_cap() -> None:
    """Half a second at first, half a minute at most, each with a little chance."""
    time = Time()
    gate = time.gate()
    waits = []
    for _ in range(12):
        gate.failed(DOWN)
        wait = gate.state.retry_in_s
        assert wait is not None
        waits.append(wait)
        time.at += wait + 0.001

    for number, wait in enumerate(waits):
        expected = min(PROBE_CAP_S, PROBE_S * 2**number)
        assert 0.8 * expected <= wait <= 1.2 * expected


def test_the_streams_that_were_in_flight_do_not_lengthen_the_pause() -> None:
    """Two hundred of them failing together is one piece of news."""
    gate = Time().gate(slots=200)
    gate.failed(DOWN)
    first = gate.state.retry_in_s

    for _ in range(200):
        gate.failed(DOWN)

    assert gate.state.retry_in_s == first


@pytest.mark.parametrize("asked_s", [0.1, 7.0, 300.0])
def test_retry_after_is_obeyed_for_the_whole_endpoint(asked_s: float) -> None:
    """What the provider asks for counts, not our own guess."""
    time = Time()
    gate = time.gate()

    gate.failed(StreamError(ErrorKind.RATE_LIMITED, "slow down", retry_after_s=asked_s))

    assert gate.state.retry_in_s == pytest.approx(asked_s)
    time.at += asked_s - 0.01
    assert gate.room() == 0
    time.at += 0.02
    assert gate.room() > 0


def test_a_later_longer_retry_after_counts_and_a_shorter_one_does_not() -> None:
    """Of several answers the longest wait."""
    gate = Time().gate()

    for asked_s in (5.0, 60.0, 10.0):
        gate.failed(StreamError(ErrorKind.OVERLOADED, "slow down", retry_after_s=asked_s))

    assert gate.state.retry_in_s == pytest.approx(60.0)


def test_an_absurd_retry_after_is_believed_for_an_hour() -> None:
    """A header with a date in another century must not stop the work for ever."""
    gate = Time().gate()

    gate.failed(StreamError(ErrorKind.RATE_LIMITED, "slow down", retry_after_s=1e9))

    assert gate.state.retry_in_s == pytest.approx(RETRY_AFTER_CAP_S)


@pytest.mark.parametrize(("in_flight", "limit"), [(8, 4), (1, 1), (0, 1)])
def test_a_busy_endpoint_gets_half_as_many(in_flight: int, limit: int) -> None:
    """It is there, so more than one may try."""
    gate = Time().gate()
    gate.in_flight = in_flight

    gate.failed(BUSY)

    assert gate.limit == limit
    assert gate.state.state == "busy"
    assert gate.down_since is None


def test_server_errors_in_a_row_are_the_endpoints_fault() -> None:
    """A few are the jobs' own; with answers between them they stay so."""
    gate = Time().gate()

    for _ in range(3):
        for _ in range(SERVER_ERRORS - 1):
            gate.failed(SERVER)
        assert gate.is_open
        gate.answered()
        gate.spoke()
    for _ in range(SERVER_ERRORS):
        gate.answered()  # accepted, and then it failed
        gate.failed(SERVER)

    assert not gate.is_open
    assert gate.state.state == "down"


@pytest.mark.parametrize(
    ("error", "unknown_model"),
    [
        (StreamError(ErrorKind.AUTH, "wrong key"), False),
        (StreamError(ErrorKind.REQUEST, "no such model", code="model_not_found"), True),
    ],
)
def test_what_waiting_does_not_mend_is_refused(error: StreamError, unknown_model: bool) -> None:
    """No job is sent to it until a person has done something, and a new run tries afresh."""
    time = Time()
    gate = time.gate()

    gate.failed(error)
    time.at += 1e6

    assert gate.room() == 0
    assert gate.is_refused
    assert gate.is_unknown_model is unknown_model
    assert gate.state.retry_in_s is None


def test_a_refusal_is_not_forgotten_for_a_lesser_trouble() -> None:
    """A stream that broke off elsewhere does not make the key right."""
    gate = Time().gate()
    gate.failed(StreamError(ErrorKind.AUTH, "wrong key"))

    gate.failed(DOWN)
    gate.failed(BUSY)

    assert gate.is_refused
    assert gate.reason == "wrong key"


@pytest.mark.parametrize(
    "kind", [ErrorKind.NETWORK, ErrorKind.IDLE_TIMEOUT, ErrorKind.REQUEST, ErrorKind.CONTENT_FILTER]
)
def test_what_a_single_stream_met_pauses_nobody(kind: ErrorKind) -> None:
    """It says nothing about the others."""
    gate = Time().gate()
    gate.changed = False

    for _ in range(20):
        gate.failed(StreamError(kind, "no"))

    assert gate.is_open
    assert gate.room() == 8
    assert not gate.changed


def test_what_people_are_shown_is_marked_as_changed() -> None:
    """The state is written down only when it is another one."""
    gate = Time().gate()
    gate.changed = False

    gate.answered()
    unchanged = gate.changed
    gate.failed(DOWN)
    paused, gate.changed = gate.changed, False
    gate.answered()

    assert (unchanged, paused, gate.changed) == (False, True, True)


def test_a_refused_endpoint_is_tried_with_one_when_it_is_time() -> None:
    """Keys are renewed and models are loaded; a worker that never ends must find out."""
    gate = Time().gate()
    refusal = StreamError(ErrorKind.AUTH, "wrong key")
    gate.failed(refusal)

    gate.reopen()
    tried = gate.room()
    gate.in_flight = 1
    while_tried = gate.room()
    gate.in_flight = 0
    gate.failed(refusal)
    refused_again = gate.room()
    gate.reopen()
    gate.answered()

    assert (tried, while_tried, refused_again) == (1, 0, 0)
    assert gate.is_open
    assert gate.room() == 2


def test_one_that_is_open_is_not_reopened() -> None:
    """A later refusal is a refusal."""
    gate = Time().gate()

    gate.reopen()
    gate.failed(StreamError(ErrorKind.AUTH, "wrong key"))

    assert gate.room() == 0


def test_a_busy_endpoint_gets_more_again_little_by_little() -> None:
    """It said where its limit is: doubling would run into it at once."""
    time = Time()
    gate = time.gate(slots=32)
    gate.in_flight = 32
    gate.failed(BUSY)
    time.at += 60

    gate.in_flight, limits = 16, []
    for _ in range(4):
        for _ in range(16):
            gate.answered()
            gate.spoke()
        limits.append(gate.limit)

    assert limits == [17, 19, 21, 22]


def test_refusals_of_what_was_asked_before_the_cut_are_no_news() -> None:
    """They come late, each with a Retry-After of its own, and are one burst."""
    time = Time()
    gate = time.gate(slots=64)
    gate.in_flight = 64
    refusal = StreamError(ErrorKind.RATE_LIMITED, "slow down", retry_after_s=1.0)

    for _ in range(10):
        time.at += 0.1
        gate.failed(refusal, asked_at=999.0)
    burst = gate.limit
    time.at += 5
    gate.failed(refusal, asked_at=time.at - 1)

    assert (burst, gate.limit) == (32, 16)


def test_permits_are_granted_once_and_given_back() -> None:
    """Each is for one job; a claim that found fewer jobs gives the rest back, requests too."""
    time = Time()
    gate = time.gate(requests_per_minute=600)
    time.at += 1

    granted = gate.take(20)
    none_left = gate.take(20)
    gate.give(granted - 3, unused=True)

    assert (granted, none_left, gate.in_flight) == (8, 0, 3)
    assert gate.take(20) == 5


def test_what_all_have_to_know_is_told_once() -> None:
    """How many were accepted, what was not used, and how long nobody is to ask."""
    time = Time()
    gate = time.gate(requests_per_minute=600)
    gate.accept(Grant(again=0, claims=4, limit=8, most=8, in_flight=4))

    gate.give(3, unused=True)
    gate.answered()
    gate.failed(StreamError(ErrorKind.RATE_LIMITED, "slow down", retry_after_s=9.0), asked_at=990.0)
    (asked, news), (_, nothing) = gate.asks(2), gate.asks(0)

    assert (asked.held, asked.wanted, asked.again) == (1, 2, 0)
    assert (news.answered, news.unused, news.used) == (1, 3, -3 * asked.size)
    assert (news.cut_asked_at, news.cut_held, news.pause_until) == (990.0, 1, 1009.0)
    assert not nothing.is_urgent
    assert (nothing.answered, nothing.unused) == (0, 0)


def test_a_rate_says_when_to_ask_again() -> None:
    """So nobody polls, and a free slot is not left alone."""
    time = Time()
    gate = time.gate(requests_per_minute=60)

    granted = gate.take(5)

    assert granted == 1
    assert gate.wait_s == pytest.approx(1)
    time.at += 1
    assert gate.take(5) == 1


def test_a_share_is_a_part_of_every_limit() -> None:
    """Of one at the least: whoever is not asked by anybody would never come back."""
    time = Time()
    gate = time.gate(max_in_flight=7, requests_per_minute=600)

    granted = gate.take(20, workers=3)
    time.at += 60
    of_many = gate.take(20, workers=100)
    gate.give(granted)

    time.at += 60
    assert (granted, of_many, gate.take(20, workers=100)) == (1, 0, 1)
    assert gate.state.limit == 7


def test_what_all_may_do_together_is_taken_over_and_shared_again() -> None:
    """While the common book is out of reach each keeps its part, and begins without a burst."""
    time = Time()
    gate = time.gate(requests_per_minute=600)
    grant = Grant(again=0, claims=4, limit=12, most=24, in_flight=9)

    claims = gate.accept(grant)
    together = (gate.limit, gate.state.limit, gate.in_flight)
    time.at += 1
    alone = gate.take(20, workers=3)
    time.at += 0.101

    assert (claims, together, alone) == (4, (12, 12, 4), 0)
    assert gate.take(20, workers=3) == 0  # four are held, of a third of twelve
    gate.give(2)
    time.at += 1
    assert gate.take(20, workers=3) == 2


def test_a_pause_of_all_is_ours() -> None:
    """Another worker was told to wait."""
    time = Time()
    gate = time.gate()

    gate.accept(Grant(again=0, claims=0, limit=8, most=8, in_flight=0, pause_s=7.0))

    assert gate.room() == 0
    assert gate.state.state == "busy"
    assert gate.wait_s == pytest.approx(7)


def test_limits_are_learnt_from_what_an_answer_says() -> None:
    """Nobody has to set them."""
    time = Time()
    gate = time.gate()
    said = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}

    before = gate.take(3)
    gate.answered({"content-type": "text/event-stream", **said})

    assert (before, gate.take(3)) == (3, 0)


def test_tokens_are_put_right_when_the_answer_has_ended() -> None:
    """What was reckoned and not used is there for others; what was used beyond it is owed."""
    time = Time()
    gate = time.gate(tokens_per_minute=60_000)
    ask = Ask(body={"messages": [], "max_tokens": 4000})

    time.at += 1
    gate.take(1)
    reckoned = gate.asked(ask)
    time.at += 3
    owed = gate.take(1)
    gate.used(ask, reckoned=reckoned, prompt=200, output=300)

    assert (reckoned, owed, gate.take(1)) == (4000, 0, 1)


def test_a_request_that_was_refused_used_nothing() -> None:
    """Nor is it what requests usually use."""
    time = Time()
    gate = time.gate(tokens_per_minute=60_000)
    ask = Ask(body={"messages": [], "max_tokens": 400_000})
    time.at += 1
    gate.take(1)

    gate.used(ask, reckoned=gate.asked(ask), prompt=None, output=None)
    time.at += 2

    assert gate.take(1) == 1


async def test_going_on_asks_nobody_where_there_is_no_rate() -> None:
    """The job holds its permit; it goes on at once."""
    assert await Time().gate().again()


async def test_nobody_goes_on_at_a_paused_endpoint() -> None:
    """The job gives its slot back, and comes again with the others."""
    time = Time()
    gate = time.gate()
    gate.failed(StreamError(ErrorKind.RATE_LIMITED, "slow down", retry_after_s=60.0))
    paused = await gate.again()
    gate.answered()  # one that was asked before

    assert (paused, await gate.again()) == (False, False)
    time.at += 61
    assert await gate.again()


async def test_whoever_is_cancelled_in_the_moment_of_the_grant_takes_nobodys_turn() -> None:
    """It still stands in the row when the permits come."""
    time = Time()
    gate = time.gate(requests_per_minute=60)
    jobs = [asyncio.ensure_future(gate.again()) for _ in range(2)]
    await asyncio.sleep(0)

    jobs[0].cancel()
    gate.take(0)

    assert await jobs[1]
    assert jobs[0].cancelled()


async def test_whoever_waits_too_long_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot is for those that may ask."""
    monkeypatch.setattr(gate_module, "PATIENCE_S", 0.01)
    gate = Time().gate(requests_per_minute=1)

    assert not await gate.again()
    assert not gate.has_waiting
