"""Law 6: within an edition text only grows; a restart opens the next one and keeps the old."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.ports import Delta
from pipeline.runner import run_job
from pipeline.sources.scripted import Cut, Script, cut_after
from tests.unit.pipeline.bench import Bench, numbered, places
from tests.unit.pipeline.told import OPENED, SILENCE, Told, finish, text, thought
from tests.unit.pipeline.waiting import until
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Completed, Kind
from tokenspool.store import actions
from tokenspool.store.actions import Chosen
from tokenspool.store.endpoints import Known
from tokenspool.store.following import Position, look

CUT = StreamError(ErrorKind.NETWORK, "cut")
NEITHER = Known(resumes_by="none", deterministic=False)


def told(folder: Path, answers: Sequence[Sequence[object]], *, known: Known = NEITHER) -> Bench:
    """Make a bench whose endpoint says exactly this."""
    bench = Bench(folder, Script(tokens=lambda _: []), known=known)
    bench.source = Told(answers)  # type: ignore[assignment]
    bench.enqueue()
    return bench


async def test_a_restart_keeps_the_old_text_and_publishes_the_new(tmp_path: Path) -> None:
    """Two editions in the journal; the file holds the last one, though it is shorter."""
    old, new = "the first try, which is long", "the second try"
    bench = told(tmp_path, [[OPENED, text(old), CUT], [OPENED, text(new), finish()]])

    ending = await bench.run_through()

    assert ending == Completed(finish="stop")
    assert (bench.text(edition=1), bench.text(edition=2)) == (old, new)
    assert bench.file() == new
    seam = bench.rows("seam")[0]
    assert (seam["strategy"], seam["edition"], seam["offset"]) == ("restart", 2, 0)
    attempts = [(a["edition"], a["from_offset"], a["to_offset"]) for a in bench.rows("attempt")]
    assert attempts == [(1, 0, len(old)), (2, 0, len(new))]


async def test_the_old_text_stands_until_an_answer_is_in_hand(tmp_path: Path) -> None:
    """A restart that gets nothing gives up nothing."""
    bench = told(tmp_path, [[OPENED, text("the first try"), CUT], *[[OPENED, CUT]] * 10])

    await bench.run_through()

    assert bench.row("checkpoint", 1)["edition"] == 1
    assert bench.text() == "the first try"


async def test_the_part_follows_the_edition_while_it_grows(tmp_path: Path) -> None:
    """Whoever reads the part sees the text as it stands, not two of them."""
    bench = told(
        tmp_path,
        [[OPENED, text("the first try, which is long"), CUT], [OPENED, text("anew"), SILENCE]],
    )

    async with bench.engine() as (parts, site):
        task = asyncio.ensure_future(run_job(bench.claim(), parts, site))
        part = tmp_path / "out" / "job.md.e1.part"
        await until(lambda: part.exists() and part.read_text() == "anew")
        task.cancel()
        await task

    assert bench.row("checkpoint", 1)["edition"] == 2


async def test_a_tool_call_that_was_cut_is_dropped_with_its_edition(tmp_path: Path) -> None:
    """Nothing is joined inside of it, and nothing of it stays in the new edition."""
    call = text("I shall look it up.")
    bench = told(
        tmp_path,
        [
            [OPENED, call, _tool('{"q": "riv'), CUT],
            [OPENED, call, _tool('{"q": "river"}'), finish("tool_calls")],
        ],
        known=Known(resumes_by="continue_final_message", deterministic=True),
    )

    ending = await bench.run_through()

    assert ending == Completed(finish="tool_calls")
    assert bench.text(edition=2, kind=Kind.TOOL) == '{"q": "river"}'
    assert bench.text(edition=1, kind=Kind.TOOL) == '{"q": "riv'
    assert bench.file() == "I shall look it up."


async def test_thoughts_belong_to_their_edition(tmp_path: Path) -> None:
    """Cut before the first word, they are thought again."""
    bench = told(
        tmp_path,
        [[OPENED, thought("hm"), CUT], [OPENED, thought("aha"), text("So."), finish()]],
    )

    await bench.run_through()

    checkpoint = bench.row("checkpoint", 1)
    assert (checkpoint["edition"], checkpoint["reasoning"]) == (2, 3)
    assert bench.text(edition=2, kind=Kind.REASONING) == "aha"
    assert bench.file() == "So."


async def test_tokens_of_the_old_edition_were_generated_but_are_not_needed(tmp_path: Path) -> None:
    """Goodput counts what was given up."""
    script = Script(tokens=lambda s: numbered(40, s), samples=True, cuts=[cut_after(25)])
    bench = Bench(tmp_path, script, known=NEITHER)
    bench.enqueue()

    await bench.run_through()

    checkpoint = bench.row("checkpoint", 1)
    assert (checkpoint["generated"], checkpoint["needed"]) == (65, 40)
    assert checkpoint["furthest"] == len("".join(numbered(40, 1)).encode())


async def test_a_person_restarts_a_failed_job_from_zero(tmp_path: Path) -> None:
    """The claim goes on in the edition that the person opened."""
    script = Script(
        tokens=lambda s: numbered(40, s),
        samples=True,
        cuts=[cut_after(25), cut_after(-1, ErrorKind.REQUEST)],
    )
    bench = Bench(tmp_path, script, known=NEITHER)
    bench.enqueue(resume="prefill")
    await bench.run_through()
    assert bench.row("job", 1)["state"] == "failed"

    actions.resume(bench.database, Chosen(job_id=1), who="test", restart=True)
    ending = await bench.run_through()

    assert ending == Completed(finish="stop")
    assert bench.file() == bench.text(edition=2) == "".join(numbered(40, 2))
    assert bench.text(edition=1) == "".join(numbered(25))
    assert bench.rows("seam") == []


async def test_a_person_resumes_a_failed_job_where_it_stood(tmp_path: Path) -> None:
    """Without a restart the text that is there is gone on from."""
    cuts: list[Cut | None] = [cut_after(25), cut_after(-1, ErrorKind.REQUEST)]
    script = Script(tokens=lambda _: numbered(40), cuts=cuts)
    bench = Bench(tmp_path, script, known=NEITHER)
    bench.enqueue(resume="prefill")
    await bench.run_through()

    actions.resume(bench.database, Chosen(job_id=1), who="test")
    await bench.run_through()

    assert places(bench.file()) == list(range(40))
    assert bench.row("checkpoint", 1)["edition"] == 1


async def test_a_cancelled_stream_stops_and_its_text_stays(tmp_path: Path) -> None:
    """Somebody cancels while it runs: the epoch rose, so nothing more is written."""
    script = Script(tokens=lambda _: numbered(40), cuts=[Cut(after=25, error=None)])
    bench = Bench(tmp_path, script, known=NEITHER)
    bench.enqueue(resume="prefill")

    async with bench.engine() as (parts, site):
        job = bench.claim()
        task = asyncio.ensure_future(run_job(job, parts, site))
        await until(lambda: bench.text() == "".join(numbered(25)))
        actions.cancel(bench.database, Chosen(job_id=1), who="test")

        def told() -> bool:
            # As the heartbeat does: again and again, since an entry in flight is let land first.
            parts.journal.lose(job.owner_key)
            return task.done()

        await until(told)
        assert await task is None

    assert bench.row("job", 1)["state"] == "cancelled"
    assert bench.text() == "".join(numbered(25))


# --- followers ------------------------------------------------------------------------------------
async def test_a_follower_sees_each_byte_once_and_is_told_of_a_new_edition(tmp_path: Path) -> None:
    """Positions that leave the process are edition:offset."""
    old, new = "the first try, which is long", "the second try"
    bench = told(
        tmp_path,
        [[OPENED, text(old), CUT], [OPENED, text(new), SILENCE]],
    )
    at, shown, resets = Position(), b"", 0

    def follow() -> bytes:
        nonlocal at, shown, resets
        news = look(bench.database, 1, after=at)
        if news.reset:
            shown, resets = b"", resets + 1
        at, shown = news.position, shown + news.data
        return shown

    async with bench.engine() as (parts, site):
        task = asyncio.ensure_future(run_job(bench.claim(), parts, site))
        await until(lambda: follow() == new.encode())
        task.cancel()
        await task

    assert resets <= 1
    assert str(at) == f"2:{len(new)}"
    assert look(bench.database, 1, after=Position(edition=1, offset=5)).reset
    assert not look(bench.database, 1, after=at).reset


@pytest.mark.parametrize("offset", [0, 7])
async def test_a_follower_of_the_old_edition_gets_the_new_one_from_its_start(
    tmp_path: Path, offset: int
) -> None:
    """Whoever was shown nothing yet has nothing to take back."""
    bench = told(tmp_path, [[OPENED, text("the first try"), CUT], [OPENED, text("anew"), finish()]])
    await bench.run_through()

    news = look(bench.database, 1, after=Position(edition=1, offset=offset))

    assert (news.data, news.reset, news.is_last) == (b"anew", offset > 0, True)


def _tool(data: str) -> object:

    return Delta(kind=Kind.TOOL, data=data.encode())
