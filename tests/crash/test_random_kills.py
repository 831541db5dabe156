"""SIGKILL at random moments of `tokenspool run`, with 64 streams alive."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.stage import Stage, ending
from tests.crash.verifier import look, snapshot, verify

STREAMS = "64"
#: A kill comes within so many seconds.
WITHIN_S = 1.5
#: Names a JSONL of prompts to use in place of those that are made here.
DATA = "TOKENSPOOL_TEST_DATA"


def _prompts(stage: Stage) -> Path:
    """Give 120 prompts with answers of 200 to 600 tokens, or somebody's own."""
    if own := os.environ.get(DATA):
        return Path(own).absolute()
    return stage.prompts([200 + (number * 37) % 401 for number in range(120)])


def _kill_again_and_again(stage: Stage, inputs: Iterator[Path], *, kills: int) -> None:
    """Kill the same run `kills` times; take the next input in whenever all is done."""
    chance = random.Random(kills)
    stage.enqueue(next(inputs))
    committed = snapshot(look(stage.database))
    killed = 0
    while killed < kills:
        with ending(stage.start(stage.run_command("--streams", STREAMS))) as process:
            was_killed = stage.kill_within(process, WITHIN_S, chance)
        killed += was_killed
        state = verify(stage.database, drained=False, before=committed, reference=stage.reference)
        committed = snapshot(state)
        if not was_killed:
            assert process.returncode == 0
            stage.enqueue(next(inputs))
    stage.done(stage.run_command("--streams", STREAMS))
    state = verify(stage.database, before=committed, reference=stage.reference)
    # Kills that met no stream would prove nothing.
    assert len(state.seams) > kills
    assert {seam["cause"] for seam in state.seams} == {"crash"}


@pytest.mark.slow
def test_64_streams_are_published_to_the_byte(brisk: Stage) -> None:
    """Undisturbed, every text is the document, and nothing was asked for twice."""
    stage, prompts = brisk, _prompts(brisk)

    stage.done(stage.run_command(prompts, "--streams", STREAMS))

    state = verify(stage.database, reference=stage.reference)
    counted = stage.simulator.stats()
    assert counted["requests"] == len(state.jobs)
    assert counted["generated"] == sum(point["needed"] for point in state.checkpoints.values())
    assert counted["peak_live"] == int(STREAMS)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_twenty_kills_at_random_moments_lose_nothing(stage: Stage) -> None:
    """After each kill the state is right; at the end every text is the document, to the byte."""
    _kill_again_and_again(stage, iter([_prompts(stage)]), kills=20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_three_hundred_kills_at_random_moments_lose_nothing(stage: Stage) -> None:
    """The same, for as long as it takes to say something about rare moments."""
    rounds = (stage.prompts([1000] * 400, name=f"round-{n}") for n in itertools.count())

    _kill_again_and_again(stage, rounds, kills=300)
