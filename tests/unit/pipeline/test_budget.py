"""The budget: readers wait while it is full, and go on as soon as it is not."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.budget import Budget


@pytest.mark.parametrize(
    ("limit", "slots", "share"),
    [(64 << 20, 8, 65536), (64 << 20, 2000, 16777), (64 << 20, 100_000, 4096), (1 << 20, 0, 65536)],
)
def test_sockets_share_the_other_half(limit: int, slots: int, share: int) -> None:
    """A receive buffer is a slot's share of half the limit, within reason."""
    assert Budget(limit, slots=slots).receive_bytes == share


def test_it_is_full_at_half_its_limit() -> None:
    """The rest belongs to what is on its way in the sockets."""
    budget = Budget(200, slots=1)

    budget.take(99)
    assert not budget.is_full
    budget.take(1)
    assert budget.is_full


async def test_readers_wait_for_room_and_go_on_in_turn() -> None:
    """Who waited first reads first; all of them once there is room."""
    budget = Budget(200, slots=1)
    budget.take(150)
    order: list[int] = []

    async def read(number: int) -> None:
        await budget.room()
        order.append(number)

    readers = [asyncio.ensure_future(read(number)) for number in range(3)]
    await asyncio.sleep(0)
    budget.give(50)
    await asyncio.sleep(0)
    assert order == []

    budget.give(1)
    await asyncio.gather(*readers)

    assert order == [0, 1, 2]
    assert budget.used == 99


async def test_one_that_fills_it_again_makes_the_next_wait() -> None:
    """Being woken is no promise: who finds it full again waits again."""
    budget = Budget(200, slots=1)
    budget.take(100)
    took: list[int] = []

    async def read(number: int) -> None:
        await budget.room()
        took.append(number)
        budget.take(100)

    readers = [asyncio.ensure_future(read(number)) for number in range(2)]
    await asyncio.sleep(0)
    budget.give(100)
    await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    assert took == [0]

    budget.give(100)
    await asyncio.gather(*readers)
    assert took == [0, 1]


async def test_a_reader_that_gave_up_waiting_blocks_nobody() -> None:
    """A cancelled waiter is passed over."""
    budget = Budget(200, slots=1)
    budget.take(100)
    first, second = (asyncio.ensure_future(budget.room()) for _ in range(2))
    await asyncio.sleep(0)

    first.cancel()
    await asyncio.sleep(0)
    budget.give(100)

    await second
    assert first.cancelled()
