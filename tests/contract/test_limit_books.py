"""The book of limits: the one in the process and the one in Redis keep the same rules.

On a real Redis: the script is what is to be tested, and fakeredis has no Lua of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis

from tests.contract.redis_server import RedisServer, own_redis
from tokenspool.errors import UsageError
from tokenspool.model import Endpoint
from worker.limits.book import Asked, Book, Grant
from worker.limits.news import News
from worker.limits.quota import Allowed, Quota
from worker.limits.rates import Rates
from worker.limits.shared import KEEP_S, LEASE_S, Page, SharedBooks, name_of

#: Any time will do; the script is handed the test's.
BEGIN = 1_700_000_000.0
PAGE = Page(name="book", rates=Rates(), slots=8)


class Handed(SharedBooks):
    """Tells the script what time it is."""

    at = BEGIN

    def _request(self, page: Page, asked: Asked, news: News, *, leave: bool) -> dict[str, Any]:
        return super()._request(page, asked, news, leave=leave) | {"now": 1000 * self.at}

    async def hold(
        self, held: int, *, wanted: int = 0, page: Page = PAGE, news: News | None = None
    ) -> Grant:
        """Say what is held, and ask."""
        grant = await self.ask(page, Asked(held=held, wanted=wanted), news or News())
        assert grant is not None
        return grant


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Give a Redis of our own."""
    with own_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[list[Handed]]:
    """Give three workers that share books."""
    server.flush()
    workers = [Handed(server.url) for _ in range(3)]
    for worker in workers:
        worker._clock = lambda worker=worker: worker.at  # type: ignore[misc]
    yield workers
    for worker in workers:
        await worker.close()


def later(workers: list[Handed], seconds: float) -> None:
    """Let time pass for all."""
    for worker in workers:
        worker.at += seconds


@pytest.mark.parametrize("seed", range(20))
async def test_both_books_keep_the_same_rules(fleet: list[Handed], seed: int) -> None:
    """A random history of one worker has the same grants, limits and waits in both."""
    random, shared = Random(seed), fleet[0]
    rates = Rates(
        max_in_flight=random.choice([None, 5, 40]),
        requests_per_minute=random.choice([None, 90, 6000]),
        tokens_per_minute=random.choice([None, 50_000]),
    )
    slots = random.choice([1, 8, 64])
    page = Page(name=f"seed-{seed}", rates=rates, slots=slots)
    book = Book(rates, slots=slots, now=shared.at)
    held, size = 0, random.choice([1, 700, 9000])
    asked_at = 0.0
    await shared.ask(page, Asked(held=0), News())  # a book begins when it is opened

    for step in range(120):
        later(fleet, random.choice([0.0, 0.01, 0.3, 2.0]))
        news, now = News(), shared.at
        held -= random.randint(0, held)
        match random.randrange(7):
            case 0 | 1:
                news.answered = random.randint(1, 5)
                for _ in range(news.answered):
                    book.aimd.answered(held=held)
            case 2:
                asked_at = random.choice([asked_at, now - 0.001, now - 0.2])
                news.cut_asked_at, news.cut_held = asked_at, held
                book.aimd.cut(asked_at=asked_at, now=now, held=held)
            case 3 if random.random() < 0.3:
                news.restart = True
                book.aimd.restart()
            case 4:
                left = random.choice([None, 0.0, 2.0, 500.0])
                per_minute = random.choice([60.0, 1200.0])
                news.quota = Quota(requests=Allowed(per_minute=per_minute, remaining=left))
                book.learn(news.quota, now=now)
            case _:
                news.used = random.choice([-500.0, 250.0, 4000.0])
                book.tokens.take(news.used, now=now)
        asked = Asked(
            held=held, wanted=random.randint(0, 9), again=random.choice([0, 0, 2]), size=size
        )

        mine, theirs = book.ask(asked, now=now), await shared.ask(page, asked, news)

        assert theirs is not None
        assert (mine.again, mine.claims, mine.in_flight) == (
            theirs.again,
            theirs.claims,
            theirs.in_flight,
        ), step
        assert theirs.limit == pytest.approx(mine.limit, abs=1e-3)
        assert theirs.most == mine.most
        assert theirs.wait_s == pytest.approx(mine.wait_s, abs=0.002)
        assert theirs.requests_per_minute == mine.requests_per_minute
        held += mine.claims


async def test_all_together_never_hold_more_than_the_most(fleet: list[Handed]) -> None:
    """Whoever asks first gets it; what is given back is for the next."""
    page = Page(name="book", rates=Rates(max_in_flight=5), slots=8)

    grants = [(await worker.hold(0, wanted=3, page=page)).claims for worker in fleet]
    await fleet[0].hold(1, page=page)
    grants.append((await fleet[2].hold(0, wanted=3, page=page)).claims)

    assert grants == [3, 2, 0, 2]


async def test_without_a_setting_the_most_is_every_slot_of_the_living(fleet: list[Handed]) -> None:
    """It grows and shrinks with the fleet."""
    mosts = [(await worker.hold(0)).most for worker in fleet]
    later(fleet, LEASE_S - 1)
    await fleet[0].hold(0)
    later(fleet, 2)

    assert mosts == [8, 16, 24]
    assert (await fleet[0].hold(0)).most == 8


async def test_permits_of_a_dead_worker_come_back_after_its_lease(fleet: list[Handed]) -> None:
    """Nobody has to say so."""
    page = Page(name="book", rates=Rates(max_in_flight=5), slots=8)
    await fleet[0].hold(0, wanted=5, page=page)

    later(fleet, LEASE_S - 0.1)
    before = await fleet[1].hold(0, wanted=5, page=page)
    later(fleet, 0.2)
    after = await fleet[1].hold(0, wanted=5, page=page)

    assert (before.claims, after.claims) == (0, 5)


async def test_a_worker_that_leaves_gives_all_back_at_once(fleet: list[Handed]) -> None:
    """Its deploy is nobody's pause."""
    page = Page(name="book", rates=Rates(max_in_flight=5), slots=8)
    await fleet[0].hold(0, wanted=5, page=page)

    await fleet[0].ask(page, Asked(held=5), News(), leave=True)

    grant = await fleet[1].hold(0, wanted=9, page=page)
    assert (grant.claims, grant.in_flight) == (5, 5)


@pytest.mark.parametrize("part", ["", ":held", ":alive", None])
async def test_a_flush_heals_within_the_next_word_of_each(
    fleet: list[Handed], server: RedisServer, part: str | None
) -> None:
    """Of everything, or of a part that was evicted; until then nobody gets what others hold."""
    page = Page(name="book", rates=Rates(max_in_flight=9), slots=8)
    for worker in fleet:
        await worker.hold(0, wanted=2, page=page)

    if part is None:
        server.flush()
    else:
        with redis.Redis(port=server.port) as client:
            assert client.delete(f"tokenspool:limits:{{book}}{part}")
    early = [(await worker.hold(2, wanted=1, page=page)).claims for worker in fleet[:1]]
    for worker in fleet:
        await worker.hold(2, page=page)
    later(fleet, fleet[0].renew_s)

    grant = await fleet[0].hold(2, wanted=9, page=page)
    assert early == [1 if part == "" else 0]  # who holds what was not lost with the rest
    assert (grant.in_flight, grant.claims) == (9, 3)


async def test_one_is_asked_to_wait_and_all_do(fleet: list[Handed]) -> None:
    """`Retry-After` is for the key, not for the worker that was told."""
    await fleet[0].hold(1, news=News(pause_until=BEGIN + 20))

    told = await fleet[1].hold(0, wanted=3)
    later(fleet, 20.01)
    after = await fleet[1].hold(0, wanted=3)

    assert (told.claims, after.claims) == (0, 3)
    assert told.pause_s == told.wait_s == pytest.approx(20)


async def test_one_is_refused_and_all_ask_less(fleet: list[Handed]) -> None:
    """Refusals of all workers are one burst, wherever they came in."""
    for worker in fleet:
        await worker.hold(0, wanted=8)
    later(fleet, 1)

    limits = []
    for worker in fleet:
        news = News(cut_asked_at=BEGIN + 0.5, cut_held=8)
        limits.append((await worker.hold(8, news=news)).limit)

    assert limits == [12, 12, 12]


async def test_what_one_learns_holds_for_all(fleet: list[Handed]) -> None:
    """The headers of one worker's answers."""
    quota = Quota(requests=Allowed(per_minute=60, remaining=1))

    await fleet[0].hold(0, news=News(quota=quota))

    grants = [(await worker.hold(0, wanted=2)).claims for worker in fleet]
    assert grants == [1, 0, 0]


async def test_a_book_nobody_opens_is_thrown_away(fleet: list[Handed], server: RedisServer) -> None:
    """Endpoints come and go; keys must not stay."""
    await fleet[0].hold(1, wanted=1)

    with redis.Redis(port=server.port) as client:
        lives = [client.pttl(key) for key in client.keys("*")]
    assert len(lives) == 3
    assert all(0 < life <= 1000 * KEEP_S for life in lives)


async def test_no_key_is_in_the_name_of_a_book() -> None:
    """Other keys, models and URLs have other books."""
    endpoint = Endpoint(id=1, url="http://x/v1", model="m")

    names = {
        name_of(endpoint, "sk-secret"),
        name_of(endpoint, "sk-other"),
        name_of(Endpoint(id=1, url="http://x/v1", model="n"), "sk-secret"),
        name_of(Endpoint(id=1, url="http://y/v1", model="m"), "sk-secret"),
    }

    assert len(names) == 4
    assert not any("secret" in name for name in names)
    assert name_of(Endpoint(id=2, url="http://x/v1", model="m"), "sk-secret") in names


@pytest.mark.parametrize("rest", ["/0?visibility_timeout=3", ":port/0", "/0?socket_timeout=soon"])
def test_a_url_that_cannot_be_used_is_said_without_its_password(rest: str) -> None:
    """A broker's URL may have options that only Celery knows."""
    with pytest.raises(UsageError, match="set limits_url to one like") as error:
        SharedBooks(f"redis://:secret@127.0.0.1{rest}")

    assert "secret" not in str(error.value)


async def test_a_redis_that_is_away_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And again when it is back; nobody waits for it longer than a moment."""
    with own_redis(tmp_path) as server:
        books = SharedBooks(server.url)
        assert await books.ask(PAGE, Asked(held=0), News()) is not None

        server.kill()
        async with asyncio.timeout(10):
            away = [await books.ask(PAGE, Asked(held=0), News()) for _ in range(3)]
        server.start()
        async with asyncio.timeout(20):
            while await books.ask(PAGE, Asked(held=0), News()) is None:
                await asyncio.sleep(0.05)
        await books.close()

    assert away == [None] * 3
    said = [record.getMessage().split()[0] for record in caplog.records]
    assert said == ["limits_not_shared", "limits_shared_again"]


async def test_what_was_learnt_outlives_the_slots_of_a_deploy(fleet: list[Handed]) -> None:
    """One old worker is left for a moment; the new ones begin where the old ones stood."""
    one, *others = fleet
    page = Page(name="deploy", rates=Rates(), slots=64)
    for worker in fleet:
        await worker.hold(0, page=page)
    await one.hold(180, page=page, news=News(cut_asked_at=one.at, cut_held=180))
    learnt = (await one.hold(0, page=page)).limit
    for worker in others:
        assert await worker.ask(page, Asked(held=0), News(), leave=True)

    alone = (await one.hold(0, page=page)).limit
    later(fleet, 1)
    for worker in others:
        await worker.hold(0, page=page)
    again = (await one.hold(0, page=page)).limit

    assert (learnt, alone, again) == (90, 64, 90)
