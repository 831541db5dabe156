"""`tokenspool run` as a process of its own against a simulator: the contract, end to end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator import process as simulators
from simulator.faults import Faults
from simulator.process import Simulator
from simulator.rules import Rule, When
from simulator.settings import SimSettings
from tests.integration.command import Quick, Said, Shell, prompts

STATUS_KEYS = {
    "jobs",
    "bytes",
    "tokens",
    "oldest_pending_s",
    "tokens_per_s",
    "eta_s",
    "workers",
    "endpoints",
    "paused",
}
JOB_KEYS = {
    "id",
    "custom_id",
    "batch",
    "state",
    "bytes",
    "tokens",
    "attempts",
    "resumes",
    "finish",
    "error",
    "output",
}


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    """Serve whole answers of 60 tokens, cutting every third one in the middle."""
    rules = (Rule(when=When(every=3), fault=Faults(cut_after_tokens=20)),)
    with simulators.start(SimSettings(tokens=60, rules=rules, api_key="sk-right")) as running:
        yield running


@pytest.fixture
def keyed(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Give the command with the right key in its environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    return quick


def work(quick: Quick, sim: Simulator, *args: str, code: int) -> Said:
    """Run into `out` against the simulator."""
    return quick("run", *args, "-o", "out", "--base-url", sim.base_url, code=code)


def expected(sim: Simulator, prompt: str, *, tokens: int | None = None) -> str:
    """Give the text that an undisturbed answer has."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    return sim.text(body, tokens=tokens)


def wait_for(path: Path, *, contains: bytes = b"") -> None:
    """Wait until another process has written something."""
    until = time.monotonic() + 30
    while not (path.exists() and contains in path.read_bytes()):
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.01)


def test_run_ends_with_the_exact_texts_and_one_document(shell: Shell, sim: Simulator) -> None:
    """Every file is the model's text, byte for byte, though answers were cut; stdout is JSON."""
    names = ["alpha", "beta", "gamma", "delta"]
    shell.extra["OPENAI_API_KEY"] = "sk-right"
    shell.write_lines("in.jsonl", *prompts(names))
    args = ("-o", "out", "--model", "m", "--base-url", sim.base_url)

    said = shell.run("run", "in.jsonl", *args, "--json", code=0)

    out = shell.folder / "out"
    assert {path.name for path in out.iterdir()} == {".tokenspool", *(f"{n}.md" for n in names)}
    for name in names:
        assert (out / f"{name}.md").read_text() == expected(sim, f"Write about {name}.")
    document = said.document
    assert set(document) == STATUS_KEYS
    assert document["jobs"] == dict.fromkeys(
        ["pending", "dispatched", "running", "waiting", "complete", "failed", "cancelled"], 0
    ) | {"total": 4, "done": 4}
    assert document["tokens"]["needed"] == 240
    assert document["eta_s"] == 0.0
    assert "4 lines: 4 new jobs" in said.err
    assert "4 of 4 jobs done" in said.err
    assert "seam" in said.err
    assert "Traceback" not in said.err


def test_the_same_command_again_has_nothing_to_do(keyed: Quick, sim: Simulator) -> None:
    """Done stays done: no token is asked for twice."""
    keyed.write_lines("in.jsonl", *prompts(["alpha", "beta"]))
    work(keyed, sim, "in.jsonl", "--model", "m", code=0)
    before = sim.stats()["generated"]

    said = work(keyed, sim, "in.jsonl", "--model", "m", code=0)

    assert "2 there already" in said.err
    assert sim.stats()["generated"] == before
    assert work(keyed, sim, code=0).out == ""


def test_lists_and_details_have_the_keys_of_the_contract(keyed: Quick, sim: Simulator) -> None:
    """Programs read these names; they stay."""
    keyed.write_lines("in.jsonl", *prompts(["alpha", "beta", "gamma"]))
    work(keyed, sim, "in.jsonl", "--model", "m", code=0)

    status = keyed("status", "-o", "out", "--json", code=0).document
    page = keyed("--json", "jobs", "-o", "out", "--limit", "2", code=0).document
    detail = keyed("show", "alpha", "--json", "-o", "out", code=0).document

    assert set(status) == STATUS_KEYS
    assert set(status["tokens"]) == {"generated", "needed", "rebilled", "estimated"}
    assert status["workers"] == []
    (endpoint,) = status["endpoints"]
    assert set(endpoint) == {"url", "model", "state", "reason", "limit", "in_flight", "retry_at"}
    assert [set(job) for job in page["jobs"]] == [JOB_KEYS, JOB_KEYS]
    assert page["jobs"][0]["output"] == str(keyed.folder / "out" / "alpha.md")
    assert page["jobs"][0]["error"] is None
    assert set(detail) >= JOB_KEYS | {"attempt", "seam", "checkpoint"}
    assert detail["checkpoint"]["position"] == f"1:{detail['bytes']}"
    assert detail["attempt"][-1]["outcome"] == "finished"


def test_failed_jobs_end_with_1_and_the_command_that_resumes_them(quick: Quick) -> None:
    """Failed stays failed until a person says resume; then run does the work."""
    fault = Rule(when=When(job="beta", first=1), fault=Faults(status=400))
    with simulators.start(SimSettings(tokens=20, rules=(fault,))) as sim:
        quick.write_lines("in.jsonl", *prompts(["alpha", "beta"]))
        said = work(quick, sim, "in.jsonl", "--model", "m", code=1)

        assert "1 failed, request:" in said.err
        assert "tokenspool resume -o out --all-failed" in said.err
        failed = quick("jobs", "-o", "out", "--state", "failed", "--json").document["jobs"]
        assert [(job["custom_id"], job["error"]["kind"]) for job in failed] == [("beta", "request")]
        assert set(failed[0]["error"]) == {"kind", "message", "action"}
        assert work(quick, sim, code=1).out == ""

        resumed = quick("resume", "-o", "out", "--error", "request", "--json", code=0)
        assert resumed.document == {"resumed": 1}
        work(quick, sim, code=0)
        assert (quick.folder / "out/beta.md").read_text() == expected(sim, "Write about beta.")


@pytest.mark.parametrize(
    ("key", "model", "code", "reason"),
    [
        ("sk-right", "no-such-model", 2, "has no model 'no-such-model'; it has: simulated"),
        ("sk-wrong", "m", 4, "set OPENAI_API_KEY to a key that it takes"),
    ],
)
def test_nothing_is_enqueued_for_a_refused_key_or_model(
    quick: Quick,
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    model: str,
    code: int,
    reason: str,
) -> None:
    """Asked before the first job is taken in."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    quick.write_lines("in.jsonl", *prompts(["alpha", "beta"]))

    said = work(quick, sim, "in.jsonl", "--model", model, code=code)

    assert reason in said.sentence
    assert "nothing was enqueued" in said.sentence
    assert "sk-" not in said.err
    assert quick("status", "-o", "out", "--json").document["jobs"]["total"] == 0


def test_openai_without_a_key_is_exit_4_at_once(quick: Quick) -> None:
    """No request is sent that could only be refused."""
    quick.write_lines("in.jsonl", *prompts(["alpha"]))

    said = quick("run", "in.jsonl", "-o", "out", "--model", "m", code=4)

    assert "needs a key: set OPENAI_API_KEY" in said.sentence


def test_an_endpoint_that_is_away_ends_with_4_and_keeps_the_jobs(quick: Quick) -> None:
    """Its jobs are enqueued and lose no attempt; the next run takes them up."""
    quick.write_lines("in.jsonl", *prompts(["alpha"]))
    gone = ("--base-url", "http://127.0.0.1:9/v1", "--endpoint-patience", "0.1")

    said = quick("run", "in.jsonl", "-o", "out", "--model", "m", *gone, "--json", code=4)

    assert said.document["jobs"]["pending"] + said.document["jobs"]["waiting"] == 1
    assert "could not be reached for 0.1 s" in said.err
    assert "Traceback" not in said.err
    jobs = quick("jobs", "-o", "out", "--json").document["jobs"]
    assert jobs[0]["attempts"] == 0


def test_a_second_run_in_the_same_folder_is_refused_before_it_enqueues(
    keyed: Quick, sim: Simulator
) -> None:
    """Exit 2 with the pid of the first; the second's input is not taken in."""
    keyed.write_lines("in.jsonl", *prompts(["alpha"]))
    work(keyed, sim, "in.jsonl", "--model", "m", code=0)
    keyed.write_lines("more.jsonl", *prompts(["beta"]))
    with (keyed.folder / "out/.tokenspool/spool.db.runner").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        said = work(keyed, sim, "more.jsonl", "--model", "m", code=2)

    assert "already running here, pid " in said.sentence
    assert keyed("status", "-o", "out", "--json").document["jobs"]["total"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_3_and_goes_on_from_there(
    shell: Shell, quick: Quick, number: signal.Signals
) -> None:
    """What was saved is not asked for again, and the file is whole in the end."""
    shell.write_lines("in.jsonl", *prompts(["alpha"]))
    # Not auto: of a text this short it would begin anew, which is cheaper than a probe.
    args = ("run", "in.jsonl", "-o", "out", "--resume", "prefill", "--model", "m", "--base-url")
    with simulators.start(SimSettings(tokens=3000, rate=100)) as slow:
        with shell.started(
            *args, slow.base_url, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as first:
            wait_for(shell.folder / "out/alpha.md.e1.part", contains=b" ")
            first.send_signal(number)
            # The stream would take half a minute.
            out, err = first.communicate(timeout=15)
        whole = expected(slow, "Write about alpha.")

    assert first.returncode == 3, err
    assert b"Traceback" not in err
    assert out.count(b"\n") == 1
    detail = quick("show", "alpha", "-o", "out", "--json").document
    assert detail["state"] == "pending"
    assert detail["attempts"] == 0
    assert 0 < detail["bytes"] < len(whole.encode())
    assert Path(detail["output"]).exists()

    # A quick endpoint with the same texts takes over: the address is no part of the content.
    with simulators.start(SimSettings(tokens=3000)) as fast:
        shell.run(*args, fast.base_url, code=0)
        assert (shell.folder / "out/alpha.md").read_text() == whole
        assert fast.stats()["generated"] < 3000


def test_tail_follows_a_growing_text_to_its_end(shell: Shell) -> None:
    """A follower that begins in the middle of a run gets every byte, and stops by itself."""
    with simulators.start(SimSettings(tokens=150, rate=150)) as sim:
        shell.write_lines("in.jsonl", *prompts(["alpha"]))
        args = ("run", "in.jsonl", "-o", "out", "--model", "m", "--base-url", sim.base_url)
        with shell.started(*args, stderr=subprocess.DEVNULL) as running:
            wait_for(shell.folder / "out/alpha.md.e1.part")
            followed = shell.run("tail", "alpha", "-f", "-o", "out", code=0)
            assert running.wait(30) == 0

        assert followed.out == expected(sim, "Write about alpha.")
    shown = shell.run("tail", "alpha", "-o", "out", "--json", code=0).document
    assert shown["text"] == followed.out
    assert shown["state"] == "done"
    assert shown["position"] == f"1:{len(followed.out.encode())}"


def test_standard_input_is_an_input(shell: Shell, sim: Simulator) -> None:
    """`-` reads lines from a pipe; their stem is `stdin`."""
    shell.extra["OPENAI_API_KEY"] = "sk-right"
    args = ("-o", "out", "--model", "m", "--base-url", sim.base_url)

    shell.run("run", "-", *args, stdin=b'{"prompt": "Write."}\n', code=0)

    assert (shell.folder / "out/stdin-00001.md").read_text() == expected(sim, "Write.")


def test_an_enqueue_that_is_interrupted_leaves_nothing_visible(shell: Shell, quick: Quick) -> None:
    """Ctrl-C in the middle of a long input: exit 3, and no job of it is there."""
    args = ("enqueue", "-", "-o", "out", "--model", "m")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with shell.started(*args, **pipes) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"prompt": "p"}\n' * 5000)
        process.stdin.flush()
        wait_for(shell.folder / "out/.tokenspool/spool.db.enqueue")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)

    assert (process.returncode, out) == (3, b"")
    assert err.startswith(b"tokenspool: interrupted; ")
    assert quick("jobs", "-o", "out", "--json", code=0).document == {"jobs": []}


def test_an_answer_at_its_budget_is_done_and_shown_apart(keyed: Quick, sim: Simulator) -> None:
    """A person's own budget is no failure, and no whole answer either."""
    keyed.write_lines("in.jsonl", *prompts(["alpha"]))

    said = work(keyed, sim, "in.jsonl", "--model", "m", "--max-output-tokens", "10", code=0)

    assert "1 job ended with the budget spent" in said.err
    jobs = keyed("jobs", "-o", "out", "--json").document["jobs"]
    assert (jobs[0]["state"], jobs[0]["finish"]) == ("done", "length")


def test_a_reader_that_leaves_early_is_no_error(shell: Shell, quick: Quick) -> None:
    """`tokenspool jobs | head -1` complains about nothing."""
    shell.write_lines("in.jsonl", *prompts(["alpha"]))
    quick("enqueue", "in.jsonl", "-o", "out", "--model", "m", code=0)
    read, write = os.pipe()
    os.close(read)

    with shell.started("jobs", "-o", "out", stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (0, b"")


def test_folders_of_our_names_where_somebody_stands_are_not_taken_for_ours(shell: Shell) -> None:
    """`python -m tokenspool` in a folder with a `cli` and a `worker` of its own."""
    for name in ("cli", "worker", "pipeline"):
        (shell.folder / name).mkdir()
        (shell.folder / name / "__init__.py").write_text("raise SystemExit('not ours')\n")

    said = subprocess.run(
        (sys.executable, "-m", "tokenspool", "run", "--help"),
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert said.returncode == 0, said.stderr
    assert "Usage: tokenspool run" in said.stdout


def test_help_and_version_do_not_wait_for_what_they_do_not_need(shell: Shell) -> None:
    """They load neither the database nor a client: that would be most of a second."""
    code = (
        "import sys; from cli.main import main; main(['--help']); main(['version']);"
        "print(sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )

    said = subprocess.run(
        (sys.executable, "-P", "-c", code),
        cwd=shell.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    for heavy in ("sqlalchemy", "openai", "aiohttp", "celery", "rich"):
        assert f"'{heavy}'" not in said.stderr
