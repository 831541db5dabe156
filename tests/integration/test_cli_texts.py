"""What becomes of the texts: shown, exported, checked, repaired, pruned."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from cli.printing import ModelText
from simulator import process as simulators
from simulator.settings import SimSettings
from tests.contract.seeds import GAVE_UP, Seeds
from tests.integration.command import Quick
from tokenspool import migrate
from tokenspool import tables as t
from tokenspool.database import Database, sqlite_url
from tokenspool.model import JobState, Kind, Resume, Seam
from tokenspool.store import actions
from tokenspool.store.actions import Chosen
from worker.lock import RunnerLock

NASTY = "\x1b]0;owned\x07\u202etext\x9b2J\nnext line 你🙂\n"


@pytest.fixture
def seeds(quick: Quick) -> Iterator[Seeds]:
    """Give the folder of a run, `out`, to be filled with jobs of batch `b`."""
    out = quick.folder / "out"
    out.mkdir()
    database = Database(sqlite_url(out / ".tokenspool/spool.db"))
    migrate.ensure(database)
    yield Seeds(database=database, root=out)
    database.close()


def exported(quick: Quick, *args: str) -> list[dict[str, Any]]:
    """Export batch `b` and give its lines."""
    said = quick("export", "b", "--db", "out", *args, code=0)
    return [json.loads(line) for line in said.out.splitlines()]


# --- tail ---------------------------------------------------------------------------------------
def test_tail_gives_a_program_the_bytes_as_they_are(quick: Quick, seeds: Seeds) -> None:
    """Nothing added, nothing escaped, no newline at the end."""
    seeds.done("a", NASTY + "end")

    said = quick("tail", "a", "-o", "out", code=0)

    assert said.out == NASTY + "end"
    assert said.err == ""


def test_tail_gives_a_terminal_nothing_that_steers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text on a terminal shows its escapes."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)

    text = ModelText()
    for byte in NASTY.encode():
        text.write(bytes([byte]))
    text.end()

    shown = "\\x1b]0;owned\\x07\\u202etext\\x9b2J\nnext line 你🙂\n\n"
    assert screen.getvalue() == shown


def test_tail_shows_other_kinds_and_says_how_an_unfinished_job_stands(
    quick: Quick, seeds: Seeds
) -> None:
    """Reasoning is kept apart from the text."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "thoughts", kind=Kind.REASONING)
    seeds.spool("a", "text")

    said = quick("tail", "a", "-o", "out", "--kind", "reasoning", code=0)

    assert said.out == "thoughts"
    assert "job 1 is running at 1:8" in said.err
    assert "Invalid value for '--kind'" in quick("tail", "a", "--kind", "x", code=2).sentence


def test_a_follower_is_told_when_the_text_begins_anew(
    quick: Quick, seeds: Seeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart in the middle: what was shown is not the text any more."""
    seeds.enqueue("a")
    seeds.claim()
    seeds.spool("a", "old text")

    def restart() -> None:
        actions.cancel(seeds.database, Chosen(job_id=1), who="me")
        actions.resume(seeds.database, Chosen(job_id=1), who="me", restart=True)
        seeds.claim()

    steps: Iterator[Callable[[], None]] = iter([restart, lambda: seeds.done("a", "new text")])
    # The follower sleeps between two looks: that is when the world goes on.
    monkeypatch.setattr("cli.tail.pause", lambda _: next(steps)())

    said = quick("tail", "a", "-f", "-o", "out", code=0)

    assert said.out == "old textnew text"
    assert said.err == "reset: the text begins anew, edition 2\n"


# --- export -------------------------------------------------------------------------------------
def test_jsonl_holds_all_that_belongs_to_an_answer(quick: Quick, seeds: Seeds) -> None:
    """Text, reasoning, tool calls put together, seams, metadata, tokens."""
    seeds.enqueue("a", extra=json.dumps({"metadata": {"k": 1}, "line": "in.jsonl:1"}).encode())
    seeds.claim()
    seeds.spool("a", "hm", kind=Kind.REASONING)
    for piece in (
        {"index": 0, "id": "c1", "name": "look", "arguments": '{"q": "\u2028'},
        {"index": 1, "id": "c2", "name": "stop", "arguments": "{}"},
        {"index": 0, "id": None, "name": None, "arguments": ' x"}'},
    ):
        seeds.spool("a", json.dumps(piece, ensure_ascii=False) + "\n", kind=Kind.TOOL)
    seam = Seam(edition=1, offset=2, strategy=Resume.PREFILL, cause="network", verified=True)
    seeds.spool("a", NASTY, seam=seam)
    seeds.done("a", "end")
    seeds.enqueue("unfinished")

    (line,) = exported(quick)

    assert (line["custom_id"], line["state"], line["finish"]) == ("a", "done", "stop")
    assert (line["text"], line["reasoning"], line["refusal"]) == (NASTY + "end", "hm", None)
    assert [call["function"] for call in line["tool_calls"]] == [
        {"name": "look", "arguments": '{"q": "\u2028 x"}'},
        {"name": "stop", "arguments": "{}"},
    ]
    assert line["seams"][0]["strategy"] == "prefill"
    assert line["metadata"] == {"k": 1}
    assert line["tokens"]["estimated"] is True
    assert line["error"] is None


def test_a_failed_jobs_text_is_never_passed_off_as_an_answer(quick: Quick, seeds: Seeds) -> None:
    """It is `partial`; and a Batch line has an error instead of a response."""
    seeds.failed("a", "half a")

    (line,) = exported(quick)
    (batch,) = exported(quick, "-f", "batch")

    assert (line["text"], line["partial"], line["error"]["kind"]) == (None, "half a", "server")
    assert batch["response"] is None
    assert batch["error"] == {"code": "server", "message": "the server said no"}


def test_batch_lines_are_those_of_the_openai_batch_api(quick: Quick, seeds: Seeds) -> None:
    """The body is a chat completion that the openai client reads; [DONE] alone means stop."""
    seeds.done("a", NASTY)
    seeds.change(t.job, finish="unconfirmed")

    (line,) = exported(quick, "-f", "batch")

    assert set(line) == {"id", "custom_id", "response", "error"}
    assert (line["custom_id"], line["error"]) == ("a", None)
    assert (line["response"]["status_code"], line["response"]["request_id"]) == (200, "req-1")
    completion = ChatCompletion.model_validate(line["response"]["body"])
    assert completion.choices[0].message.content == NASTY
    assert completion.choices[0].finish_reason == "stop"


def test_an_export_into_a_file_appears_whole(quick: Quick, seeds: Seeds) -> None:
    """The document says what is in it; no temporary file stays, and nobody else may read it."""
    seeds.done("a", "x")
    seeds.enqueue("b")

    said = quick("export", "b", "--db", "out", "-o", "b.jsonl", "--json", code=0)

    assert said.document == {"exported": 1, "unfinished": 1, "gone": 0, "file": "b.jsonl"}
    assert json.loads(Path("b.jsonl").read_text())["text"] == "x"
    assert Path("b.jsonl").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in Path().iterdir()} == {"out", "b.jsonl"}


def test_an_export_that_fails_leaves_the_old_file(
    quick: Quick, seeds: Seeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends with 4 and one sentence; nothing half written has the name."""
    seeds.done("a", "x")
    Path("b.jsonl").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "b.jsonl")

    monkeypatch.setattr("cli.export.os.fsync", full)

    said = quick("export", "b", "--db", "out", "-o", "b.jsonl", code=4)

    assert "-o b.jsonl: the answers cannot be written: No space left on device" in said.sentence
    assert Path("b.jsonl").read_text() == "old"
    assert {path.name for path in Path().iterdir()} == {"out", "b.jsonl"}


def test_a_long_text_is_exported_in_bounded_memory(quick: Quick, seeds: Seeds) -> None:
    """A line is made in pieces, cut anywhere in a character, and is right in the end."""
    seeds.enqueue("a")
    seeds.claim()
    piece = "你" * 100_000
    for _ in range(20):
        seeds.spool("a", piece)
    seeds.done("a", "end")

    (line,) = exported(quick)

    assert line["text"] == piece * 20 + "end"


# --- verify -------------------------------------------------------------------------------------
def verify(quick: Quick, *args: str) -> tuple[int, dict[str, int]]:
    """Verify, and give exit code and numbers."""
    said = quick("verify", "-o", "out", "--json", *args)
    return said.code, said.document


def test_verify_finds_every_kind_of_damage_and_repairs_it(quick: Quick, seeds: Seeds) -> None:
    """Changed, cut, missing, replaced by a link or a folder: found by length and SHA-256."""
    for name in ("whole", "changed", "cut", "missing", "linked", "folder"):
        seeds.done(name, f"text of {name}")
    out = quick.folder / "out"
    (out / "changed.md").write_text("TEXT of changed")
    (out / "cut.md").write_text("text")
    (out / "missing.md").unlink()
    (out / "linked.md").unlink()
    (quick.folder / "same").write_text("text of linked")
    (out / "linked.md").symlink_to(quick.folder / "same")
    found = {"checked": 6, "ok": 2, "damaged": 3, "missing": 1, "repaired": 0}
    assert verify(quick) == (1, found)

    assert verify(quick, "--repair") == (0, found | {"repaired": 4})

    assert verify(quick) == (0, {**found, "ok": 6, "damaged": 0, "missing": 0})
    assert {path.name for path in out.iterdir()} == {
        ".tokenspool",
        *(f"{n}.md" for n in ("whole", "changed", "cut", "missing", "linked", "folder")),
    }
    assert not (out / "linked.md").is_symlink()
    assert (out / "cut.md").read_text() == "text of cut"


def test_what_cannot_be_repaired_is_said_and_ends_with_1(quick: Quick, seeds: Seeds) -> None:
    """A folder in the file's place, and a journal that does not hold what was published."""
    seeds.done("folder", "x")
    seeds.done("journal", "y")
    out = quick.folder / "out"
    for name in ("folder", "journal"):
        (out / f"{name}.md").unlink()
    (out / "folder.md").mkdir()
    seeds.change(t.job, sha256=b"\0" * 32)

    said = quick("verify", "-o", "out", "--repair", code=1)

    assert "folder.md: damaged" in said.err
    assert "journal.md: missing, and cannot be repaired: the journal does not hold" in said.err
    assert not (out / "journal.md").exists()
    assert not list(out.glob("*.part"))


# --- prune --------------------------------------------------------------------------------------
def test_prune_forgets_old_text_and_never_touches_an_output(quick: Quick, seeds: Seeds) -> None:
    """Verify still works, repair says that it cannot, export takes the text from the file."""
    seeds.done("done", NASTY)
    seeds.failed("failed", "half a")
    out = quick.folder / "out"
    (out / "failed.md.e1.part").write_text("half a")
    seeds.change(t.job, ended_at=1.0)

    said = quick("prune", "--older-than", "30d", "-o", "out", "--json", code=0)

    size = len((NASTY + "half a").encode())
    assert said.document == {"jobs": 2, "bytes": size, "parts": 1}
    assert {path.name for path in out.iterdir()} == {".tokenspool", "done.md"}
    assert verify(quick)[0] == 0
    assert [line["text"] for line in exported(quick)] == [NASTY, None]
    assert "it is in " in quick("tail", "done", "-o", "out", code=0).err

    (out / "done.md").write_text("damaged")
    code, numbers = verify(quick, "--repair")
    assert (code, numbers["repaired"]) == (1, 0)
    gone = quick("export", "b", "--db", "out", code=1)
    assert "job 1 left out: its text was pruned" in gone.err


def test_prune_removes_nothing_through_a_linked_folder(quick: Quick, seeds: Seeds) -> None:
    """A folder below the root that became a link leads out of the output."""
    for name, path in (("real", "sub/real.md"), ("linked", "link/linked.md")):
        seeds.enqueue(name, name=path)
        seeds.claim()
        seeds.spool(name, "half a", ending=GAVE_UP)
    out, elsewhere = quick.folder / "out", quick.folder / "elsewhere"
    for folder, name in ((out / "sub", "real"), (elsewhere, "linked")):
        folder.mkdir()
        (folder / f"{name}.md.e1.part").write_text("half a")
    (out / "link").symlink_to(elsewhere)
    seeds.change(t.job, ended_at=1.0)

    said = quick("prune", "--older-than", "30d", "-o", "out", "--json", code=0)

    assert said.document["parts"] == 1
    assert not list((out / "sub").iterdir())
    assert (elsewhere / "linked.md.e1.part").exists()


# --- acting -------------------------------------------------------------------------------------
def test_cancel_and_resume_answer_in_numbers(quick: Quick, seeds: Seeds) -> None:
    """What was moved, as one document, or as a sentence on stderr."""
    seeds.enqueue("a", "b", "c")

    assert quick("cancel", "--job", "a", "-o", "out", "--json").document == {"cancelled": 1}
    assert "2 jobs cancelled" in quick("cancel", "--batch", "b", "-o", "out", code=0).err
    assert "nothing to cancel" in quick("cancel", "--batch", "b", "-o", "out", code=0).err
    assert quick("resume", "--batch", "b", "-o", "out", "--json").document == {"resumed": 3}
    said = quick("resume", "--job", "a", "-o", "out", code=0)
    assert "nothing to resume: the job is pending" in said.err
    assert seeds.rows(t.audit)[0]["who"]


def test_status_for_people_says_the_most_wanted_first(quick: Quick, seeds: Seeds) -> None:
    """Words, not a document."""
    seeds.done("a", "some text")
    seeds.enqueue("b")
    seeds.live_worker("w", tokens_per_s=10.0)

    runner = RunnerLock(quick.folder / "out/.tokenspool/spool.db")
    runner.acquire()
    lines = quick("status", "-o", "out", code=0).out.splitlines()
    runner.release()

    assert lines[0] == "jobs       2: 1 pending, 1 done"
    assert lines[1].startswith("text       9 B, about 9 tokens")
    assert any(line.startswith("worker     w: running, 3 of 8 streams") for line in lines)
    assert quick("jobs", "-o", "out").out.splitlines()[0].split("\t")[1] == "a"
    assert any("attempt" in line for line in quick("show", "a", "-o", "out").out.splitlines())
    assert JobState.DONE.value in quick("show", "id:1", "-o", "out").out


# --- doctor and db ------------------------------------------------------------------------------
def test_the_doctor_says_what_works_and_what_to_do(
    quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each; 4 when something needed cannot be used."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    with simulators.start(SimSettings(api_key="sk-right")) as sim:
        base = ("--base-url", sim.base_url)
        well = quick("doctor", *base, "--model", "m", "--json", code=0).document
        states = {check["name"]: check["state"] for check in well["checks"]}
        assert well["ok"]
        assert set(states) == {
            "settings",
            "database",
            "sqlite",
            "disk",
            "open files",
            "endpoint",
            "model",
            "stream",
            "resume",
        }
        resume = next(check for check in well["checks"] if check["name"] == "resume")
        assert "continue_final_message, proven byte by byte" in resume["found"]

        unknown = quick("doctor", *base, "--model", "no-such", code=4)
        assert "name one that it has: simulated" in unknown.out
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        assert "FAILED  key" in quick("doctor", *base, "--model", "m", code=4).out
    assert "FAILED  endpoint" in quick("doctor", *base, code=4).out
    assert not Path(".tokenspool").exists()


def test_db_tells_and_upgrades_the_version(quick: Quick) -> None:
    """`current` makes nothing; `upgrade` makes the file."""
    said = quick("db", "current", "--json", code=0).document
    assert (said["revision"], Path(".tokenspool").exists()) == (None, False)

    quick("db", "upgrade", code=0)

    said = quick("db", "current", "--json", code=0).document
    assert said["revision"] == said["newest"]
