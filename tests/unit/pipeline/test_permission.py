"""Asking again: a job makes room when it may not, and spends nothing on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.runner import run_job
from pipeline.sources.scripted import Cut, Script, cut_after
from tests.unit.pipeline.bench import Bench, numbered
from tokenspool.errors import ErrorKind
from tokenspool.model import Ending, GivenBack, Postponed
from tokenspool.store.endpoints import Known
from worker.gate import Gate

#: Goes on exactly from any prefix.
KNOWN = Known(resumes_by="continue_final_message", deterministic=True)
DOCUMENT = "".join(numbered(40))


async def run(bench: Bench, change: Callable[[Gate], None]) -> Ending | None:
    """Claim and run a job at a gate that is changed."""
    async with bench.engine() as (parts, site):
        assert isinstance(site.gate, Gate)
        change(site.gate)
        job = bench.claim()
        ending = await run_job(job, parts, site)
        parts.delivery.close(job)
        return ending


def refuse_again(gate: Gate) -> None:
    """Let nobody ask a second time."""

    async def no() -> bool:
        return False

    gate.again = no  # type: ignore[method-assign]


async def test_a_cut_job_that_may_not_ask_again_goes_back_with_its_text(tmp_path: Path) -> None:
    """The next claim goes on from where it was, and knows why it was cut."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(40), cuts=[cut_after(25)]), KNOWN)
    bench.enqueue()

    ending = await run(bench, refuse_again)
    text = bench.text()
    await bench.run_through()

    assert ending == GivenBack(cause="network")
    assert text == "".join(numbered(25))
    assert bench.file() == DOCUMENT
    assert bench.row("job", 1)["attempts"] == 1  # the one that ended well
    assert [seam["cause"] for seam in bench.rows("seam")] == ["network"]


@pytest.mark.parametrize("kind", [ErrorKind.SERVER, ErrorKind.NETWORK])
async def test_a_retry_beyond_the_budget_waits_and_spends_nothing(
    tmp_path: Path, kind: ErrorKind
) -> None:
    """An endpoint that is sick is not stormed, and its jobs do not die of it."""
    cuts: list[Cut | None] = [cut_after(-1, kind)]
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(40), cuts=cuts))
    bench.enqueue()

    await bench.run_once()
    spent = bench.row("job", 1)["attempts"], bench.row("checkpoint", 1)["stalls"]
    asked = len(bench.rows("attempt"))
    endings = [await run(bench, lambda gate: setattr(gate, "may_retry", bool)) for _ in range(9)]

    assert all(isinstance(ending, Postponed) and not ending.spends for ending in endings)
    assert (bench.row("job", 1)["attempts"], bench.row("checkpoint", 1)["stalls"]) == spent
    assert len(bench.rows("attempt")) == asked
    await bench.run_through()
    assert bench.file() == DOCUMENT


async def test_a_later_claim_that_goes_on_after_a_cut_is_no_retry(tmp_path: Path) -> None:
    """The cut answer brought text: it was worth its request."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(40), cuts=[cut_after(25)]), KNOWN)
    bench.enqueue()
    await run(bench, refuse_again)

    ending = await run(bench, lambda gate: setattr(gate, "may_retry", bool))

    assert not isinstance(ending, Postponed)
    assert bench.text() == DOCUMENT


async def test_the_gate_learns_what_answers_use(tmp_path: Path) -> None:
    """Prompt and answer, once it has ended; what is asked next is reckoned with by it."""
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(40)), KNOWN)
    bench.enqueue()
    gates: list[Gate] = []

    await run(bench, gates.append)

    assert 40 <= gates[0].asks(0)[0].size < 100


async def test_going_on_after_a_cut_is_no_retry(tmp_path: Path) -> None:
    """An endpoint that cuts every answer still brings the work forward."""
    cuts: list[Cut | None] = [cut_after(5), cut_after(5), cut_after(5)]
    bench = Bench(tmp_path, Script(tokens=lambda _: numbered(40), cuts=cuts), KNOWN)
    bench.enqueue()

    ending = await run(bench, lambda gate: setattr(gate, "may_retry", bool))

    assert not isinstance(ending, Postponed)
    assert bench.text() == DOCUMENT
