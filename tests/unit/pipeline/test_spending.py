"""Law 9: nothing is asked for without end, whatever the endpoint does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.ports import Event
from pipeline.retry import RetryPolicy
from pipeline.sources.scripted import Script, cut_after
from pipeline.watch import Timeouts
from tests.unit.pipeline.bench import Bench, numbered, places
from tests.unit.pipeline.told import OPENED, SILENCE, Told, finish, text, thought
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Completed, GaveUp, GivenBack, Postponed, Resume
from tokenspool.store.endpoints import Known

GOES_ON = Known(resumes_by="continue_final_message", deterministic=True)
Answers = Sequence[Sequence[Event | BaseException | object]]


def told(folder: Path, answers: Answers, *, known: Known = GOES_ON, **options: object) -> Bench:
    """Make a bench whose endpoint says exactly this."""
    bench = Bench(folder, Script(tokens=lambda _: []), known=known, **options)  # type: ignore[arg-type]
    bench.source = Told(answers)  # type: ignore[assignment]
    return bench


async def test_an_answer_that_reaches_its_limit_again_and_again_is_a_stall(tmp_path: Path) -> None:
    """Structured output is made anew after `length`; the same limit every time ends it."""
    answer = [OPENED, text('{"a": [1, 2, 3'), finish("length")]
    bench = told(tmp_path, [answer] * 70)
    bench.enqueue(body={"model": "m", "response_format": {"type": "json_object"}})

    ending = await bench.run_through()

    assert isinstance(ending, GaveUp)
    assert ending.failure.kind is ErrorKind.INCOMPLETE
    assert len(bench.source.requests) == 6


async def test_growing_answers_are_gone_on_with_however_often(tmp_path: Path) -> None:
    """Text that grows pays for its continuations, up to their own bound."""
    answers = [[OPENED, text(f" part {n}."), finish("length")] for n in range(20)]
    bench = told(tmp_path, [*answers, [OPENED, text(" The end."), finish()]])
    bench.enqueue(resume="prefill")

    ending = await bench.run_through()

    assert ending == Completed(finish="stop")
    assert bench.file() == "".join(f" part {n}." for n in range(20)) + " The end."


@pytest.mark.parametrize("kind", [ErrorKind.NETWORK, ErrorKind.MALFORMED, ErrorKind.IDLE_TIMEOUT])
async def test_a_probe_that_fails_for_ever_ends_the_job(tmp_path: Path, kind: ErrorKind) -> None:
    """Before the first resume the endpoint is probed: those answers cost as much as others."""
    begun = [OPENED, text("word " * 40), StreamError(ErrorKind.NETWORK, "cut")]
    probes = [[OPENED, text("wo"), StreamError(kind, "cut")]] * 50
    bench = told(tmp_path, [begun, *probes], known=Known())
    bench.enqueue()

    ending = await bench.run_through()

    assert isinstance(ending, GaveUp)
    assert ending.failure.kind is kind
    assert len(bench.source.requests) <= 6
    assert bench.text() == "word " * 40


async def test_a_silent_probe_is_interrupted(tmp_path: Path) -> None:
    """An endpoint that takes the probe and says nothing must not hold the job for ever."""
    begun = [OPENED, text("word " * 40), StreamError(ErrorKind.NETWORK, "cut")]
    bench = told(
        tmp_path,
        [begun, *[[OPENED, SILENCE]] * 10],
        known=Known(),
        timeouts=Timeouts(first_byte_s=0.02),
        retry=RetryPolicy(max_stalls=2, base_s=0.001, cap_s=0.001),
    )
    bench.enqueue()

    ending = await bench.run_through()

    assert isinstance(ending, GaveUp)
    assert ending.failure.kind is ErrorKind.FIRST_BYTE_TIMEOUT


@pytest.mark.parametrize("kind", [ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED, ErrorKind.AUTH])
async def test_an_error_object_in_an_accepted_answer_pauses_the_endpoint(
    tmp_path: Path, kind: ErrorKind
) -> None:
    """Said with status 200 it is the same news: the job goes back, and nobody else tries now."""
    bench = told(tmp_path, [[OPENED, StreamError(kind, "busy", retry_after_s=30.0)]])
    bench.enqueue()

    async with bench.engine() as (parts, site):
        from pipeline.runner import run_job  # noqa: PLC0415 - beside its use

        ending = await run_job(bench.claim(), parts, site)

    assert ending == GivenBack(cause=kind.value)
    assert not site.gate.is_open
    assert bench.row("job", 1)["attempts"] == 0


async def test_server_errors_in_accepted_answers_add_up_to_an_endpoint_that_is_down(
    tmp_path: Path,
) -> None:
    """Accepting requests and failing each of them is no sign of health."""
    error = StreamError(ErrorKind.SERVER, "internal error")
    bench = told(tmp_path, [[OPENED, error]] * 10)
    for number in range(6):
        bench.enqueue(f"job{number}")

    async with bench.engine() as (parts, site):
        from pipeline.runner import run_job  # noqa: PLC0415 - beside its use

        endings = [await run_job(bench.claim(), parts, site) for _ in range(5)]

    assert [type(ending) for ending in endings] == [*[Postponed] * 4, GivenBack]
    assert not site.gate.is_open


async def test_reasoning_that_is_cut_again_and_again_ends(tmp_path: Path) -> None:
    """Thoughts are not the text: an answer that never gets beyond them gains nothing."""
    answer = [OPENED, thought("hm " * 50), StreamError(ErrorKind.NETWORK, "cut")]
    bench = told(tmp_path, [answer] * 50)
    bench.enqueue()

    ending = await bench.run_through()

    assert isinstance(ending, GaveUp)
    assert len(bench.source.requests) == 5


@pytest.mark.parametrize(
    ("resume", "samples"),
    # Not prefill on a sampler that ignores it: told so outright, nobody can see that it is wrong.
    [(resume, False) for resume in Resume]
    + [(resume, True) for resume in Resume if resume is not Resume.PREFILL],
)
async def test_every_policy_ends_on_an_endpoint_that_cuts_at_the_same_place(
    tmp_path: Path, resume: Resume, samples: bool
) -> None:
    """It ignores prefixes and cuts every answer after fifty tokens."""
    script = Script(
        tokens=lambda s: numbered(200, s), honours=frozenset(), samples=samples,
        cuts=[cut_after(50)] * 500,
    )  # fmt: skip
    bench = Bench(tmp_path, script)
    bench.enqueue(resume=resume)

    await bench.run_through(most=300)

    row = bench.row("job", 1)
    assert row["state"] in {"failed", "done"}
    assert len(bench.source.requests) < 40
    if row["state"] == "done":
        assert places(bench.file()) == list(range(200))


async def test_a_replay_is_no_silence(tmp_path: Path) -> None:
    """Swallowing what is saved already is content: the watchdogs of a silent stream sleep."""
    begun = [OPENED, text("word " * 40), StreamError(ErrorKind.NETWORK, "cut")]
    again = [OPENED, text("word " * 20), SILENCE]
    bench = told(
        tmp_path,
        [begun, again, [OPENED, text("word " * 40), text("end"), finish()]],
        timeouts=Timeouts(first_byte_s=600.0, idle_s=0.05),
    )
    bench.enqueue(resume="replay")

    ending = await bench.run_through()

    assert ending == Completed(finish="stop")
    outcomes = [row["error_kind"] for row in bench.rows("attempt")]
    assert outcomes == ["network", "idle_timeout", None]
