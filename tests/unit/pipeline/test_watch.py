"""Watchdogs: silence is measured without our own pauses, and an interruption says what it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipeline.watch import Live, Timeouts, Watch
from tokenspool.errors import ErrorKind, StreamError

LIMITS = Timeouts(first_byte_s=600.0, idle_s=120.0, total_s=3600.0)


async def interrupted(
    look: Callable[[Live, Watch], Awaitable[None] | None],
) -> BaseException | None:
    """Read in silence while `look` looks on; give what ended the reading, None if nothing did."""
    watch = Watch(LIMITS)
    under_watch: asyncio.Future[Live] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        with Live(watch) as live:
            under_watch.set_result(live)
            await asyncio.Event().wait()

    reading = asyncio.ensure_future(read())
    waiting = look(await under_watch, watch)
    if waiting is not None:
        await waiting
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if not reading.done():
        reading.cancel()
        await asyncio.wait({reading})
        return None
    assert not watch.streams
    return reading.exception() if not reading.cancelled() else asyncio.CancelledError()


@pytest.mark.parametrize(
    ("after_s", "with_text", "silent_s", "kind"),
    [
        (599.0, False, 599.0, None),
        (601.0, False, 601.0, ErrorKind.FIRST_BYTE_TIMEOUT),
        (601.0, True, 119.0, None),
        (601.0, True, 121.0, ErrorKind.IDLE_TIMEOUT),
        (3601.0, True, 1.0, ErrorKind.TOTAL_TIMEOUT),
        (3601.0, False, 3601.0, ErrorKind.TOTAL_TIMEOUT),
    ],
)
async def test_each_silence_has_its_own_limit(
    after_s: float, with_text: bool, silent_s: float, kind: ErrorKind | None
) -> None:
    """Before the first text, between texts, and over all."""

    def look(live: Live, watch: Watch) -> None:
        live.has_text = with_text
        live.moved = live.started + after_s - silent_s
        watch.look(live.started + after_s)

    error = await interrupted(look)

    assert (error.kind if isinstance(error, StreamError) else error) is kind


async def test_a_paused_stream_is_never_overdue() -> None:
    """While we do not read, its silence is our own."""

    def look(live: Live, watch: Watch) -> None:
        live.progress()
        live.pause()
        watch.look(live.started + 1e9)

    assert await interrupted(look) is None


async def test_a_pause_does_not_count_afterwards() -> None:
    """Its length is taken off both clocks."""

    def look(live: Live, watch: Watch) -> None:
        live.progress()
        live.pause()
        assert live.paused_at is not None
        live.paused_at -= 1000.0  # so long ago
        live.unpause()
        watch.look(live.moved + 119.0)
        assert live.started == pytest.approx(live.moved, abs=1.0)

    assert await interrupted(look) is None


async def test_zero_is_without_limit() -> None:
    """Each limit can be switched off."""
    watch = Watch(Timeouts(first_byte_s=0.0, idle_s=0.0, total_s=0.0))
    with Live(watch) as live:
        watch.look(live.started + 1e9)
        live.progress()
        watch.look(live.started + 1e9)

        await asyncio.sleep(0)

        assert watch.streams == {live}


async def test_the_watch_looks_by_itself() -> None:
    """No stream has to ask for it."""
    watch = Watch(Timeouts(first_byte_s=0.01))
    looking = asyncio.ensure_future(watch.run())

    with pytest.raises(StreamError, match=r"within 0\.01 s"), Live(watch):
        await asyncio.Event().wait()

    looking.cancel()


async def test_the_first_reason_counts() -> None:
    """A stream that is interrupted twice tells why it was at first."""

    def look(live: Live, _: Watch) -> None:
        live.interrupt(ValueError("first"))
        live.interrupt(ValueError("second"))

    assert str(await interrupted(look)) == "first"


async def test_a_cancellation_from_outside_stays_one() -> None:
    """Draining is no error of the stream."""
    watch = Watch(LIMITS)

    async def read() -> None:
        with Live(watch):
            await asyncio.Event().wait()

    reading = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait({reading})

    assert reading.cancelled()


@pytest.mark.parametrize("drain_first", [False, True])
async def test_a_drain_is_not_swallowed_by_an_interruption(drain_first: bool) -> None:
    """Both at once: the stream that was to stop must not be asked anew."""

    def look(live: Live, _: Watch) -> None:
        if drain_first:
            live._task.cancel()
        live.interrupt(ValueError("silent"))
        if not drain_first:
            live._task.cancel()

    assert isinstance(await interrupted(look), asyncio.CancelledError)


async def test_an_interruption_that_a_source_turned_into_its_own_error_keeps_its_reason() -> None:
    """A client that makes a network error of a cancellation does not hide what happened."""
    watch = Watch(LIMITS)
    under_watch: asyncio.Future[Live] = asyncio.get_running_loop().create_future()

    async def read() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            with Live(watch) as live:
                under_watch.set_result(live)
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    msg = "connection closed"
                    raise OSError(msg) from None
        finally:
            assert not task.cancelling()

    reading = asyncio.ensure_future(read())
    (await under_watch).interrupt(ValueError("silent"))

    with pytest.raises(ValueError, match="silent"):
        await reading
