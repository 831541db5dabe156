"""`tokenspool pause` and `unpause`, and what a run makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator import process as simulators
from simulator.process import Simulator
from simulator.settings import SimSettings
from tests.integration.command import Quick, Said, prompts


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    """Serve whole answers of 20 tokens."""
    with simulators.start(SimSettings(tokens=20)) as running:
        yield running


@pytest.fixture
def spool(quick: Quick, sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Give the command, with two jobs in the batch `in` of the folder `out`."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")
    quick.write_lines("in.jsonl", *prompts(["a", "b"]))
    place = ("-o", "out", "--batch", "in")
    quick("enqueue", "in.jsonl", *place, "--model", "m", "--base-url", sim.base_url, code=0)
    return quick


def run(quick: Quick, *, code: int) -> Said:
    """Work off what is queued."""
    return quick("run", "-o", "out", "--json", code=code)


def test_a_run_ends_at_a_paused_batch_and_goes_on_once_it_is_unpaused(
    spool: Quick, tmp_path: Path
) -> None:
    """It asks for nothing, says why with the command that mends it, and does not wait for ever."""
    said = spool("pause", "--batch", "in", "-o", "out", code=0)
    assert "batch 'in' paused; `tokenspool unpause -o out --batch in` lets it go on" in said.err

    said = run(spool, code=3)
    assert said.document["jobs"]["pending"] == 2
    assert said.document["tokens"]["generated"] == 0
    assert (
        "2 jobs held up by a pause of batch 'in' (tokenspool unpause -o out --batch in)" in said.err
    )

    said = spool("unpause", "--batch", "in", "-o", "out", code=0)
    assert "batch 'in' unpaused" in said.err
    assert run(spool, code=0).document["jobs"]["done"] == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.md")) == ["a.md", "b.md"]


def test_a_run_ends_at_a_paused_endpoint(spool: Quick, sim: Simulator) -> None:
    """The pause stays; a new run does not take it back."""
    spool("pause", "--endpoint", sim.base_url, "-o", "out", code=0)

    for _ in range(2):
        said = run(spool, code=3)
        assert said.document["endpoints"][0]["state"] == "paused"
        assert f"--endpoint '{sim.base_url} m'" in said.err

    spool("unpause", "--endpoint", f"{sim.base_url} m", "-o", "out", code=0)
    assert run(spool, code=0).document["jobs"]["done"] == 2


def test_a_run_works_off_what_is_not_paused(spool: Quick, sim: Simulator) -> None:
    """Other batches are done; then it ends with what the pause holds up."""
    spool.write_lines("more.jsonl", *prompts(["c"]))
    place = ("-o", "out", "--batch", "more")
    spool("enqueue", "more.jsonl", *place, "--model", "m", "--base-url", sim.base_url, code=0)
    spool("pause", "--batch", "in", "-o", "out", code=0)

    jobs = run(spool, code=3).document["jobs"]

    assert (jobs["done"], jobs["pending"]) == (1, 2)


def test_a_run_gives_up_on_a_lost_endpoint_also_beside_a_paused_one(
    spool: Quick, sim: Simulator
) -> None:
    """Only those that are not paused count: else it would probe for ever."""
    spool.write_lines("lost.jsonl", *prompts(["c"]))
    nobody = "http://127.0.0.1:1/v1"
    spool("enqueue", "lost.jsonl", "-o", "out", "--model", "m", "--base-url", nobody, code=0)
    spool("pause", "--endpoint", sim.base_url, "-o", "out", code=0)

    said = spool("run", "-o", "out", "--endpoint-patience", "0", code=4)

    assert f"{nobody} could not be reached" in said.err


def test_status_shows_the_pauses(spool: Quick, sim: Simulator) -> None:
    """Of batches and of endpoints, for people and for programs."""
    spool("pause", "--batch", "in", "-o", "out", code=0)
    spool("pause", "--endpoint", sim.base_url, "-o", "out", code=0)

    said = spool("status", "-o", "out", code=0)
    assert "paused     batch 'in': `tokenspool unpause -o out --batch in`" in said.out
    assert f"{sim.base_url} m: paused (by " in said.out

    document = spool("status", "-o", "out", "--json", code=0).document
    assert document["paused"] == ["in"]
    assert document["endpoints"][0]["state"] == "paused"


@pytest.mark.parametrize(("command", "key"), [("pause", "paused"), ("unpause", "unpaused")])
def test_json_counts_what_changed(spool: Quick, command: str, key: str) -> None:
    """The second time nothing does, and a person is told so."""
    if command == "unpause":
        spool("pause", "--batch", "in", "-o", "out", code=0)
    asked = (command, "--batch", "in", "-o", "out")

    assert spool(*asked, "--json", code=0).document == {key: 1}
    assert spool(*asked, "--json", code=0).document == {key: 0}
    assert f"nothing to {command}" in spool(*asked, code=0).err


@pytest.mark.parametrize("command", ["pause", "unpause"])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "say one thing: --batch B or --endpoint E"),
        (("--batch", "in", "--endpoint", "http://x"), "say one thing"),
        (("--batch", "nope"), "no batch is called 'nope'; there are: 'in'"),
        (("--endpoint", "http://x"), "no endpoint is called 'http://x'; there are: 'http://127"),
        (("--endpoint", "x"), "must begin with http://"),
    ],
)
def test_what_is_not_there_is_exit_2(
    spool: Quick, command: str, options: tuple[str, ...], sentence: str
) -> None:
    """With what there is; nothing silently."""
    said = spool(command, *options, "-o", "out", code=2)

    assert sentence in said.sentence
