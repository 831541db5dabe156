"""What a kill costs, in tokens, with the settings as they come."""

from __future__ import annotations

import pytest

from tests.crash.goodput import goodput_of, loop_command
from tests.crash.reporting import Report
from tests.crash.stage import Stage
from tests.crash.verifier import verify

LENGTHS = [200] * 40
NEEDED = sum(LENGTHS)


@pytest.mark.slow
def test_a_kill_under_eight_streams_costs_half_a_percent(stage: Stage, report: Report) -> None:
    """One SIGKILL in the middle of 40 answers: at most 1.005 tokens for each that is needed."""
    prompts = stage.prompts(LENGTHS)
    command = stage.run_command(prompts, "--streams", "8", "--resume", "prefill")

    found = goodput_of(stage, command, needed=NEEDED, kills=[0.5])

    verify(stage.database, reference=stage.reference)
    report(f"prefill: {found}")
    assert found.ratio <= 1.005, found


@pytest.mark.slow
def test_what_auto_finds_out_costs_little(stage: Stage, report: Report) -> None:
    """The same with `--resume auto`, the probe counted: at most 1.05."""
    prompts = stage.prompts(LENGTHS)
    command = stage.run_command(prompts, "--streams", "8")

    found = goodput_of(stage, command, needed=NEEDED, kills=[0.5])

    verify(stage.database, reference=stage.reference)
    report(f"auto: {found}")
    assert found.ratio <= 1.05, found


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_kill_under_a_thousand_streams_costs_two_percent(stage: Stage, report: Report) -> None:
    """One SIGKILL with 1,000 live streams of 400 tokens: at most 1.02."""
    lengths = [400] * 1000
    prompts = stage.prompts(lengths)
    stage.enqueue(prompts)

    found = goodput_of(
        stage, stage.run_command("--streams", "1000"), needed=sum(lengths), kills=[0.5]
    )

    verify(stage.database, reference=stage.reference)
    report(f"1,000 streams: {found}")
    assert found.ratio <= 1.02, found


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_hand_written_loop_pays_for_every_answer_again(stage: Stage, report: Report) -> None:
    """The comparison holds: who begins unfinished answers anew pays far more than we do."""
    lengths = [200] * 8
    prompts = stage.prompts(lengths)
    command = loop_command(stage, prompts, streams=8)

    found = goodput_of(stage, command, needed=sum(lengths), kills=[0.5])

    report(f"by hand: {found}")
    assert found.ratio >= 1.3, found
