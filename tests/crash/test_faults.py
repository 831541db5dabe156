"""What endpoints do to streams: nothing of it ever publishes a text that is short."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from simulator import process
from simulator.faults import Faults
from simulator.rules import Rule, When
from simulator.settings import SimSettings
from tests.crash.stage import Stage, ending
from tests.crash.verifier import look, snapshot, verify

#: Long against the pace of the endpoint, short against the test.
IDLE_S = "1"
LENGTHS = [60 + 30 * number for number in range(8)]

#: What happens to every second answer of some jobs, and what the seam behind it is said to be from.
STREAM_FAULTS: dict[str, tuple[Faults, str]] = {
    "cut": (Faults(cut_after_tokens=40), "network"),
    "closed": (Faults(cut_after_tokens=40, cut="fin"), "network"),
    "stalled": (Faults(stall_after_tokens=40), "idle_timeout"),
    "commented": (Faults(stall_after_tokens=40, stall_comments_s=0.1), "idle_timeout"),
    "ended": (Faults(end_after_tokens=40), "incomplete"),
    "malformed": (Faults(garbage_at=40, garbage_events=100), "malformed"),
    "error": (Faults(error_after_tokens=40), "server"),
}
#: What every third request is answered with in place of a stream.
REFUSALS = {
    "rate limited": Faults(status=429, retry_after=0.1),
    "overloaded": Faults(status=503),
    "server error": Faults(status=500),
    "no answer": Faults(no_answer=True),
}


@pytest.mark.slow
def test_no_broken_stream_publishes_a_short_text(tmp_path: Path) -> None:
    """Every text is whole in the end, to the byte, and its seams say what had happened."""
    rules = tuple(
        Rule(when=When(job=f"Tell me {name}", every=2), fault=fault)
        for name, (fault, _) in STREAM_FAULTS.items()
    )
    with process.start(SimSettings(rate=400, rules=rules)) as simulator:
        stage = Stage(root=tmp_path, simulator=simulator)
        stage.environment["TOKENSPOOL_IDLE_TIMEOUT_S"] = IDLE_S
        prompts = [stage.prompts(LENGTHS, name=name) for name in STREAM_FAULTS]

        stage.done(stage.run_command(*prompts, "--streams", "28", "--resume", "prefill"))

        state = verify(stage.database, reference=stage.reference)
        names = {job["id"]: job["custom_id"] for job in state.jobs}
        causes = defaultdict(set)
        for seam in state.seams:
            causes[names[seam["job_id"]].rsplit("-", 1)[0]].add(seam["cause"])
        assert causes == {name: {cause} for name, (_, cause) in STREAM_FAULTS.items()}
        _check_shown(stage, names[state.seams[0]["job_id"]], state.seams[0])


def _check_shown(stage: Stage, custom_id: str, seam: dict[str, object]) -> None:
    """Check that a person is shown the seam, and the attempt that ended there."""
    shown = stage.show(custom_id)
    for name in ("edition", "offset", "strategy", "cause"):
        assert shown["seam"][0][name] == seam[name]
    assert shown["attempt"][0]["to_offset"] == seam["offset"]
    assert shown["attempt"][0]["error_kind"] == seam["cause"]


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSALS)
def test_no_refusal_costs_text(tmp_path: Path, name: str) -> None:
    """An endpoint that refuses every third request is asked again, until all is done."""
    rules = (Rule(when=When(every=3), fault=REFUSALS[name]),)
    with process.start(SimSettings(rate=400, rules=rules)) as simulator:
        stage = Stage(root=tmp_path, simulator=simulator)
        prompts = stage.prompts(LENGTHS)

        stage.done(stage.run_command(prompts, "--streams", "4", "--resume", "prefill"))

        state = verify(stage.database, reference=stage.reference)
        assert state.seams == []
        assert simulator.stats()["requests"] > len(LENGTHS)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_faults_and_kills_together_publish_no_short_text(tmp_path: Path) -> None:
    """A third of all streams come to grief, every ninth request is refused, and we are killed."""
    rules = (
        Rule(when=When(every=9), fault=Faults(status=429, retry_after=0.2)),
        Rule(when=When(every=31), fault=Faults(status=500)),
    )
    settings = SimSettings(rate=100, rules=rules, fault_rate=0.33)
    chance = random.Random(7)
    with process.start(settings) as simulator:
        stage = Stage(root=tmp_path, simulator=simulator)
        # A stall may come before the first token, where the other clock counts.
        for clock in "IDLE", "FIRST_BYTE":
            stage.environment[f"TOKENSPOOL_{clock}_TIMEOUT_S"] = IDLE_S
        stage.enqueue(stage.prompts([400] * 48))
        command = stage.run_command("--streams", "24")
        committed = snapshot(look(stage.database))

        for _ in range(8):
            with ending(stage.start(command)) as run:
                stage.kill_within(run, 2, chance)
            state = verify(
                stage.database, drained=False, before=committed, reference=stage.reference
            )
            committed = snapshot(state)
        stage.done(command)

        state = verify(stage.database, before=committed, reference=stage.reference)
        causes = {seam["cause"] for seam in state.seams}
        assert {"crash", "idle_timeout", "incomplete", "network"} <= causes
