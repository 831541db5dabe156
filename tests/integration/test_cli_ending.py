"""What a run says before it begins and at its end, so that a person knows what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator import process as simulators
from simulator.faults import Faults
from simulator.process import Simulator
from simulator.rules import Rule, When
from simulator.settings import SimSettings
from tests.integration.command import Quick, prompts
from tokenspool.errors import UsageError

NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    """Serve short answers; to `no` a refusal, to `bad` an error."""
    rules = (
        Rule(when=When(job="about no."), fault=Faults(refusal=5)),
        Rule(when=When(job="about bad."), fault=Faults(status=400)),
    )
    with simulators.start(SimSettings(tokens=20, rules=rules)) as running:
        yield running


@pytest.fixture
def spool(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Give the command with a key and an input of one job."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")
    quick.write_lines("in.jsonl", *prompts(["a"]))
    return quick


def test_too_few_open_files_are_told_before_anything_is_made(
    spool: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2 means that nothing was changed."""

    def refuse(streams: int) -> int:
        msg = f"{streams} streams need more"
        raise UsageError(msg)

    monkeypatch.setattr("cli.run.allow_open_files", refuse)

    args = ("in.jsonl", "-o", "out", "--model", "m", "--base-url", NOBODY)
    said = spool("run", *args, "--endpoint-patience", "0", "--streams", "7", code=2)

    assert said.sentence == "tokenspool: 7 streams need more"
    assert not Path("out").exists()


def test_queued_jobs_keep_their_endpoint_and_a_run_says_so(spool: Quick, sim: Simulator) -> None:
    """--base-url and --model without inputs change nothing: one line says what does."""
    place = ("-o", "out", "--endpoint-patience", "0")
    url = ("--base-url", NOBODY)
    spool("enqueue", "in.jsonl", "-o", "out", "--model", "m", *url, code=0)

    said = spool("run", *place, "--base-url", sim.base_url, code=4)
    assert f"note: queued jobs keep their endpoint ({NOBODY} m)" in said.err
    again = f"tokenspool run INPUT -o out --base-url {sim.base_url}"
    assert again in said.err
    said = spool("run", *place, "--model", "other", code=4)
    assert "give the inputs with another -o" in said.err
    for quiet in ((), ("--model", "m"), url):
        assert "keep their endpoint" not in spool("run", *place, *quiet, code=4).err

    spool(*again.replace("INPUT", "in.jsonl").split()[1:], "--model", "m", code=0)


def test_done_jobs_without_text_are_counted_at_the_end(spool: Quick, sim: Simulator) -> None:
    """A refusal is an answer, and its file is empty: nobody should find out by chance."""
    spool.write_lines("in.jsonl", *prompts(["a", "no"]))
    args = ("in.jsonl", "-o", "out", "--model", "m", "--base-url", sim.base_url)

    said = spool("run", *args, code=0)

    assert (
        "1 of them without text: refusals or tool calls; `tokenspool show JOB -o out`" in said.err
    )


def test_an_endpoint_that_nothing_is_asked_of_is_not_waited_for(
    spool: Quick, sim: Simulator
) -> None:
    """All is done: the endpoint that is away now does not matter."""
    args = ("run", "in.jsonl", "-o", "out", "--model", "m", "--endpoint-patience", "0")
    assert "the jobs wait for it" in spool(*args, "--base-url", NOBODY, code=4).err
    spool(*args, "--base-url", sim.base_url, code=0)

    said = spool(*args, "--base-url", NOBODY, code=0)

    assert "wait for it" not in said.err


@pytest.mark.parametrize("where", [(), ("--db", "jobs here.db")])
def test_the_hints_at_the_end_can_be_pasted(
    spool: Quick, sim: Simulator, where: tuple[str, ...]
) -> None:
    """They name the folder, and the database if it is not the folder's own."""
    spool.write_lines("in.jsonl", *prompts(["bad"]))
    args = ("in.jsonl", "-o", "my out", "--model", "m", "--base-url", sim.base_url)

    said = spool("run", *args, *where, code=1)

    at = "--db 'jobs here.db'" if where else "-o 'my out'"
    again = "tokenspool run -o 'my out'" + (f" {at}" if where else "")
    assert f"tokenspool resume {at} --all-failed, then {again}\n" in said.err
