"""What comes beside the text, thoughts say, while it is open whether an answer joins on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.answer import HELD_BYTES
from pipeline.sources.scripted import Script
from tests.unit.pipeline.bench import Bench
from tests.unit.pipeline.told import OPENED, Told, finish, text, thought
from tokenspool.errors import ErrorKind, StreamError
from tokenspool.model import Kind
from tokenspool.store.endpoints import Known

CUT = StreamError(ErrorKind.NETWORK, "cut")
BEGIN = "It was a quiet evening by the river, and nobody had yet lit the lamps in the house."
SAVED = [OPENED, thought("hm "), text(BEGIN, chunks=20), CUT]


async def _run(folder: Path, resume: str, answers: Sequence[Sequence[object]]) -> Bench:
    bench = Bench(folder, Script(tokens=lambda _: []), known=Known(resumes_by="prefill"))
    bench.source = Told(answers)  # type: ignore[assignment]
    bench.enqueue(resume=resume)
    await bench.run_through()
    return bench


async def test_a_replay_does_not_double_the_thoughts(tmp_path: Path) -> None:
    """They repeat what is saved: they are counted as generated and not appended."""
    again = [OPENED, thought("hm "), text(BEGIN, chunks=20), text(" Then."), finish()]

    bench = await _run(tmp_path, "replay", [SAVED, again])

    assert bench.text(kind=Kind.REASONING) == "hm "
    assert bench.file() == BEGIN + " Then."
    assert bench.row("checkpoint", 1)["generated"] == 21 + 22


@pytest.mark.parametrize("resume", ["prefill", "continue"])
async def test_the_thoughts_of_a_joined_answer_are_kept(tmp_path: Path, resume: str) -> None:
    """Held until the answer is seen to go on, then appended, and counted once."""
    on = " Then they came home, all of them, and somebody sang in the kitchen until late."
    again = [OPENED, thought("aha"), text(on, chunks=20), finish()]

    bench = await _run(tmp_path, resume, [SAVED, again])

    assert bench.text(kind=Kind.REASONING) == "hm aha"
    assert bench.file() == BEGIN + on
    checkpoint = bench.row("checkpoint", 1)
    assert (checkpoint["generated"], checkpoint["needed"]) == (42, 42)


async def test_a_refused_answer_leaves_no_thoughts(tmp_path: Path) -> None:
    """An answer anew is not joined on, and neither is what it thought."""
    anew = [OPENED, thought("anew"), text(BEGIN), finish()]
    replayed = [OPENED, thought("hm "), text(BEGIN), text(" Then."), finish()]

    bench = await _run(tmp_path, "prefill", [SAVED, anew, anew, replayed])

    assert bench.text(kind=Kind.REASONING) == "hm "
    assert bench.file() == BEGIN + " Then."


async def test_what_is_held_has_a_limit(tmp_path: Path) -> None:
    """Thoughts beyond it are counted and dropped; the text is whole all the same."""
    on = " Then they came home, all of them, and somebody sang in the kitchen until late."
    long = [thought("x" * 1024)] * (HELD_BYTES // 1024 + 3)

    bench = await _run(tmp_path, "prefill", [SAVED, [OPENED, *long, text(on), finish()]])

    assert len(bench.text(kind=Kind.REASONING)) == len("hm ") + HELD_BYTES
    assert bench.file() == BEGIN + on
