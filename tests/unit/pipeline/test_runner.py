"""One job through the engine, on a scripted endpoint and a real SQLite database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipeline.retry import RetryPolicy
from pipeline.runner import run_job
from pipeline.sources.scripted import Cut, Script, cut_after
from pipeline.watch import Timeouts
from tests.unit.pipeline.bench import Bench, numbered, places
from tokenspool.errors import ErrorKind
from tokenspool.model import Completed, GaveUp, GivenBack, Prefill
from tokenspool.store import claims
from tokenspool.store.endpoints import Known

HONOURS = Known(resumes_by="continue_final_message", deterministic=True)
DOCUMENT = "".join(numbered(200))


async def test_an_undisturbed_answer_is_published_exactly(tmp_path: Path) -> None:
    """The output is the model's text, byte for byte, and its row says so."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(200)))
    bench.enqueue()

    ending = await bench.run_once()

    assert ending == Completed(finish="stop")
    assert bench.file() == bench.text() == DOCUMENT
    row = bench.row("job", 1)
    assert (row["state"], row["finish"], row["bytes"]) == ("done", "stop", len(DOCUMENT.encode()))
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "job.md"]


@pytest.mark.parametrize("samples", [False, True])
async def test_prefill_neither_loses_nor_doubles_a_token(tmp_path: Path, samples: bool) -> None:
    """However often an answer is cut, each token of the document stands there once."""
    cuts: list[Cut | None] = [cut_after(7), cut_after(0), cut_after(1), cut_after(30), cut_after(5)]
    script = Script(tokens=lambda s: numbered(200, s), samples=samples, cuts=cuts)
    bench = Bench(tmp_path, script, known=HONOURS)
    bench.enqueue(resume="prefill")

    await bench.run_through()

    assert places(bench.file()) == list(range(200))
    if not samples:
        assert bench.file() == DOCUMENT
    assert bench.source.generated == 200
    assert [s["strategy"] for s in bench.rows("seam")] == ["prefill"] * 4


async def test_a_cut_without_progress_is_a_stall_and_five_in_a_row_fail(tmp_path: Path) -> None:
    """Law 9: answers that gain nothing end after max_stalls, and the text is kept."""
    script = Script(tokens=lambda _: numbered(50), cuts=[cut_after(9), *[cut_after(0)] * 20])
    bench = Bench(tmp_path, script, known=HONOURS)
    bench.enqueue(resume="prefill")

    ending = await bench.run_through()

    assert isinstance(ending, GaveUp)
    assert ending.failure.kind is ErrorKind.NETWORK
    assert len(bench.source.requests) == 6
    assert bench.row("job", 1)["state"] == "failed"
    assert places(bench.text()) == list(range(9))


async def test_a_clean_end_without_a_finish_is_not_passed_off_as_done(tmp_path: Path) -> None:
    """Law 5: what has no proven end is resumed."""
    script = Script(tokens=lambda _: numbered(50), cuts=[cut_after(20, ErrorKind.INCOMPLETE)])
    bench = Bench(tmp_path, script, known=HONOURS)
    bench.enqueue()

    await bench.run_through()

    assert bench.file() == "".join(numbered(50))
    assert bench.rows("seam")[0]["cause"] == "incomplete"
    assert bench.rows("seam")[0]["verified"]


async def test_a_refrain_comes_out_whole(tmp_path: Path) -> None:
    """A text that repeats its own opening is not taken for an answer anew, wherever it is cut."""
    refrain = [
        f"{w} "
        for w in ("sing the river sing the stone sing it all the long way home " * 3).split()
    ]
    verses = [[f"verse {n} line {i}, " for i in range(10)] for n in range(4)]
    song = [token for verse in verses for token in refrain + verse]
    for cut in range(30, len(song), 7):
        folder = tmp_path / str(cut)
        folder.mkdir()
        bench = Bench(folder, Script(tokens=lambda _: song, cuts=[cut_after(cut)]), known=HONOURS)
        bench.enqueue()

        await bench.run_through()

        assert bench.file() == "".join(song), f"cut after {cut}"


async def test_a_text_of_one_phrase_comes_out_whole(tmp_path: Path) -> None:
    """Even where every place looks like the opening, nothing is lost or doubled."""
    song = ["la la la "] * 120
    for cut in (9, 40, 77):
        folder = tmp_path / str(cut)
        folder.mkdir()
        bench = Bench(folder, Script(tokens=lambda _: song, cuts=[cut_after(cut)]), known=HONOURS)
        bench.enqueue()

        await bench.run_through()

        edition = bench.row("checkpoint", 1)["edition"]
        assert bench.file() == bench.text(edition=edition) == "".join(song), f"cut after {cut}"


async def test_the_probe_finds_out_who_goes_on_and_is_asked_once(tmp_path: Path) -> None:
    """`auto` shows the endpoint the opening of a real answer before the first resume."""
    script = Script(tokens=lambda _: numbered(200), cuts=[cut_after(60), None, cut_after(40)])
    bench = Bench(tmp_path, script)
    bench.enqueue()

    await bench.run_through()

    assert bench.file() == DOCUMENT
    assert bench.learned == [HONOURS]
    assert bench.source.generated <= 200 + 16
    assert bench.row("checkpoint", 1)["generated"] == bench.source.generated


async def test_an_endpoint_that_ignores_the_prefix_is_replayed(tmp_path: Path) -> None:
    """Answering anew with the same text: the saved bytes are swallowed and the rest appended."""
    script = Script(tokens=lambda _: numbered(200), honours=frozenset(), cuts=[cut_after(60)])
    bench = Bench(tmp_path, script)
    bench.enqueue()

    await bench.run_through()

    assert bench.file() == DOCUMENT
    assert bench.learned == [Known(resumes_by="replay", deterministic=True)]
    assert bench.rows("seam")[0]["strategy"] == "replay"


async def test_a_prefix_ignored_in_spite_of_the_profile_never_doubles_text(tmp_path: Path) -> None:
    """An explicit prefill is guarded too: an answer anew is not appended."""
    script = Script(tokens=lambda _: numbered(200), honours=frozenset(), cuts=[cut_after(60)])
    bench = Bench(tmp_path, script)
    bench.enqueue(resume="prefill")

    await bench.run_through()

    assert bench.file() == DOCUMENT
    assert bench.row("checkpoint", 1)["edition"] == 1


async def test_an_unknown_sampler_that_ignores_prefixes_is_restarted_when_short(
    tmp_path: Path,
) -> None:
    """Nothing of two samples is mixed: a new edition holds one whole answer."""
    script = Script(
        tokens=lambda s: numbered(100, s), honours=frozenset(), samples=True, cuts=[cut_after(60)]
    )
    bench = Bench(tmp_path, script)
    bench.enqueue()

    await bench.run_through()

    assert bench.row("checkpoint", 1)["edition"] == 2
    assert places(bench.file()) == list(range(100))
    assert bench.text(edition=1) == "".join(numbered(60))


async def test_continue_removes_an_anchored_repetition_only(tmp_path: Path) -> None:
    """Asked to go on, the model repeats its last words: they are swallowed, once."""
    script = Script(tokens=lambda _: numbered(400), cuts=[cut_after(350)], repeats=60)
    bench = Bench(tmp_path, script, flags=())
    bench.enqueue()

    await bench.run_through()

    assert places(bench.file()) == list(range(400))
    seam = bench.rows("seam")[0]
    assert (seam["strategy"], seam["verified"]) == ("continue", True)
    assert seam["overlap"] >= 60


async def test_length_goes_on_until_the_text_is_whole(tmp_path: Path) -> None:
    """A server's limit per answer is no end: the text goes on to its own end."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(200), cap=30), known=HONOURS)
    bench.enqueue()

    ending = await bench.run_through()

    assert ending == Completed(finish="stop")
    assert bench.file() == DOCUMENT
    assert {s["cause"] for s in bench.rows("seam")} == {"length"}


async def test_a_spent_budget_is_done_with_finish_length(tmp_path: Path) -> None:
    """The user's own limit ends the job; nothing is asked beyond it."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(200), cap=30), known=HONOURS)
    bench.enqueue(max_output_tokens=75)

    ending = await bench.run_through()

    assert ending == Completed(finish="length")
    assert places(bench.file()) == list(range(75))
    assert [ask.limit for ask in bench.source.requests] == [75, 45, 15]


async def test_max_continuations_fail_as_incomplete(tmp_path: Path) -> None:
    """Without an end in sight the job fails, and keeps its text."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(200), cap=10), known=HONOURS)
    bench.enqueue(max_continuations=3)

    ending = await bench.run_through()

    assert isinstance(ending, GaveUp)
    assert ending.failure.kind is ErrorKind.INCOMPLETE
    assert places(bench.text()) == list(range(40))


async def test_draining_commits_what_came_and_refunds_the_attempt(tmp_path: Path) -> None:
    """Cancelled, a stream leaves everything it received in the journal and its job pending."""
    script = Script(tokens=lambda _: numbered(200), cuts=[Cut(after=50, error=None)])
    bench = Bench(tmp_path, script, known=HONOURS)
    bench.enqueue()

    async def drain(task: asyncio.Task[object]) -> None:
        while bench.source.generated < 50:
            await asyncio.sleep(0.001)
        task.cancel()

    ending = await bench.run_once(during=drain)

    assert ending == GivenBack(cause="drain")
    row = bench.row("job", 1)
    assert (row["state"], row["attempts"], row["owner"]) == ("pending", 0, None)
    assert places(bench.text()) == list(range(50))


async def test_a_silent_stream_is_interrupted_and_resumed(tmp_path: Path) -> None:
    """The idle watchdog counts content; the stream goes on from what is saved."""
    script = Script(tokens=lambda _: numbered(100), cuts=[Cut(after=50, error=None)])
    bench = Bench(tmp_path, script, known=HONOURS, timeouts=Timeouts(idle_s=0.05))
    bench.enqueue()

    await bench.run_through()

    assert bench.file() == "".join(numbered(100))
    assert bench.rows("seam")[0]["cause"] == "idle_timeout"


async def test_who_lost_the_claim_writes_nothing_more(tmp_path: Path) -> None:
    """Law 2: after another claim the old stream stops, silent or not; nothing of it is kept."""
    script = Script(tokens=lambda _: numbered(100), cuts=[Cut(after=50, error=None)])
    bench = Bench(tmp_path, script, known=HONOURS)
    bench.enqueue()

    async with bench.engine() as (parts, site):
        task = asyncio.ensure_future(run_job(bench.claim(), parts, site))
        while bench.source.generated < 50:
            await asyncio.sleep(0.001)
        with bench.database.write() as connection:
            claims.reclaim(connection, dead=["w"], max_crashes=3)
        while not task.done():  # as the heartbeat does: a beat may be under way
            parts.journal.lose((1, 1))
            await asyncio.sleep(0.001)
        assert task.result() is None

    row = bench.row("job", 1)
    assert (row["state"], row["epoch"]) == ("pending", 2)


async def test_a_rejected_request_fails_at_once_without_a_retry(tmp_path: Path) -> None:
    """A 400 is the job's own: no second try, one attempt spent."""
    script = Script(tokens=lambda _: numbered(10), cuts=[cut_after(-1, ErrorKind.REQUEST)])
    bench = Bench(tmp_path, script)
    bench.enqueue()

    ending = await bench.run_once()

    assert isinstance(ending, GaveUp)
    assert bench.row("job", 1)["attempts"] == 1


async def test_an_unreachable_endpoint_costs_no_attempt(tmp_path: Path) -> None:
    """Connect errors give the attempt back and pause the endpoint."""
    script = Script(tokens=lambda _: numbered(10), cuts=[cut_after(-1, ErrorKind.CONNECT)])
    bench = Bench(tmp_path, script, retry=RetryPolicy())
    bench.enqueue()

    ending = await bench.run_once()

    assert ending == GivenBack(cause="connect")
    assert bench.row("job", 1)["attempts"] == 0


async def test_a_seam_that_is_not_proven_is_refused_on_request(tmp_path: Path) -> None:
    """`--on-seam fail`: no unverified seam gets into the text."""
    script = Script(tokens=lambda _: numbered(400), cuts=[cut_after(350)], repeats=0)
    bench = Bench(tmp_path, script, flags=())
    bench.enqueue(on_seam="fail")

    ending = await bench.run_through()

    assert isinstance(ending, GaveUp)
    assert places(bench.text()) == list(range(350))
    assert bench.rows("seam") == []


def test_all_prefill_flags_are_known() -> None:
    """The fake honours every flag there is."""
    assert Script(tokens=numbered).honours == frozenset(Prefill)
