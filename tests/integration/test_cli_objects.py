"""Texts in an object store, from the command line: enqueued, worked off, looked at, mended."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

import tokenspool
from simulator import process as simulators
from simulator.process import Simulator
from simulator.settings import SimSettings
from tests.integration.command import Quick, Shell, prompts
from tests.s3 import S3

NAMES = ["alpha", "beta", "gamma"]
LIST = ("jobs", "-o", ".", "--json")


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    """Serve short answers at once."""
    with simulators.start(SimSettings(tokens=60, rate=0)) as running:
        yield running


@pytest.fixture
def spooled(quick: Quick, sim: Simulator, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Give the command in a folder whose jobs are enqueued for a bucket."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    quick.write_lines("in.jsonl", *prompts(NAMES))
    args = ("--model", "m", "--base-url", sim.base_url, "-o", f"s3://{s3.bucket}/book/one/")
    said = quick("enqueue", "in.jsonl", *args, "--json", code=0)
    assert (said.document["batch"], said.document["new"]) == ("one", 3)
    return quick


def text_of(sim: Simulator, name: str) -> bytes:
    """Give the answer to a prompt."""
    body = {"model": "m", "messages": [{"role": "user", "content": f"Write about {name}."}]}
    return sim.text(body).encode()


def test_texts_become_objects_and_nothing_lies_in_the_folder(
    spooled: Quick, sim: Simulator, s3: S3
) -> None:
    """Enqueue with a URL, work it off with `run`, look at it with show, jobs and tail."""
    before = spooled(*LIST, code=0).document["jobs"]
    assert [job["output"] for job in before] == [None] * 3

    spooled("run", "-o", ".", code=0)

    assert sorted(s3.keys()) == [f"book/one/{name}.md" for name in NAMES]
    for name in NAMES:
        assert s3.get(f"book/one/{name}.md") == text_of(sim, name)
    url = f"s3://{s3.bucket}/book/one"
    jobs = spooled(*LIST, code=0).document["jobs"]
    assert [job["output"] for job in jobs] == [f"{url}/{name}.md" for name in NAMES]
    shown = spooled("show", "beta", "-o", ".", "--json", code=0).document
    assert (shown["state"], shown["output"]) == ("done", f"{url}/beta.md")
    assert spooled("tail", "beta", "-o", ".", code=0).out.encode() == text_of(sim, "beta")
    assert {path.name for path in spooled.folder.iterdir()} == {"in.jsonl", ".tokenspool"}


def test_verify_reads_the_objects_back_and_repairs_them(
    spooled: Quick, sim: Simulator, s3: S3
) -> None:
    """Missing, cut, changed: found by length and SHA-256, and put there anew."""
    spooled("run", "-o", ".", code=0)
    assert spooled("verify", "-o", ".", "--json", code=0).document["ok"] == 3
    s3.delete("book/one/alpha.md")
    s3.put("book/one/beta.md", b"short")
    changed = text_of(sim, "gamma")[:-1] + b"!"
    s3.put("book/one/gamma.md", changed)

    found = {"checked": 3, "ok": 0, "damaged": 2, "missing": 1, "repaired": 0}
    assert spooled("verify", "-o", ".", "--json", code=1).document == found
    repaired = spooled("verify", "-o", ".", "--repair", "--json", code=0).document

    assert repaired == found | {"repaired": 3}
    for name in NAMES:
        assert s3.get(f"book/one/{name}.md") == text_of(sim, name)


def test_verify_of_a_store_that_is_away_says_so(spooled: Quick, s3: S3) -> None:
    """It found nothing out, so it calls nothing missing."""
    spooled("run", "-o", ".", code=0)
    s3.fail("403", method="GET")

    said = spooled("verify", "-o", ".", "--repair", code=4)

    assert "alpha.md cannot be read: the server refuses the credentials" in said.sentence


def test_what_the_journal_has_forgotten_is_read_back_for_an_export(
    spooled: Quick, sim: Simulator, s3: S3
) -> None:
    """With keep = until-published the object is the only copy."""
    spooled.write("tokenspool.toml", 'keep = "until-published"\n')
    spooled("run", "-o", ".", code=0)
    assert spooled("tail", "beta", "-o", ".", code=0).out == ""

    lines = spooled("export", "one", "--db", ".", code=0).out.splitlines()
    texts = {line["custom_id"]: line["text"] for line in map(json.loads, lines)}
    assert {name: text.encode() for name, text in texts.items()} == {
        name: text_of(sim, name) for name in NAMES
    }
    spooled("verify", "-o", ".", code=0)

    s3.put("book/one/beta.md", b"something else")
    said = spooled("export", "one", "--db", ".", code=1)
    assert "left out: its text was pruned from the journal" in said.err
    assert len(said.out.splitlines()) == 2
    with (
        tokenspool.open_batch("one", db=spooled.folder) as batch,
        pytest.raises(tokenspool.Unavailable, match="read it there"),
    ):
        batch.job("alpha").text()


def test_an_object_of_ones_own_is_never_overwritten(spooled: Quick, s3: S3) -> None:
    """The job fails with what to do; its text is kept, and published when the way is free."""
    s3.put("book/one/beta.md", b"mine")

    spooled("run", "-o", ".", code=1)

    assert s3.get("book/one/beta.md") == b"mine"
    error = spooled("show", "beta", "-o", ".", "--json", code=0).document["error"]
    assert error["kind"] == "storage"
    assert "is there already, and this job did not write it" in error["message"]
    s3.delete("book/one/beta.md")
    spooled("resume", "--job", "beta", "-o", ".", code=0)
    spooled("run", "-o", ".", code=0)
    assert spooled("verify", "-o", ".", "--json", code=0).document["ok"] == 3


def test_a_second_database_does_not_write_over_the_texts_of_the_first(
    spooled: Quick, sim: Simulator, s3: S3
) -> None:
    """The same custom_id, the same prefix, and even the same job id: still not its object."""
    spooled("run", "-o", ".", code=0)
    s3_url = f"s3://{s3.bucket}/book/one"
    args = ("--model", "m", "--base-url", sim.base_url, "-o", s3_url, "--db", "other.db")
    spooled("enqueue", "in.jsonl", *args, code=0)

    spooled("run", "-o", "other", "--db", "other.db", code=1)

    failed = spooled("jobs", "--db", "other.db", "--json", code=0).document["jobs"]
    assert [job["error"]["kind"] for job in failed] == ["storage"] * 3


def test_run_says_what_it_waits_for_without_a_secret(shell: Shell, sim: Simulator, s3: S3) -> None:
    """The reason is on the screen, the jobs are complete, and no attempt is spent."""
    shell.extra |= s3.environment | {"OPENAI_API_KEY": "sk-x"}
    shell.write_lines("in.jsonl", *prompts(["a"]))
    args = ("--model", "m", "--base-url", sim.base_url, "-o", "s3://no-such-bucket/x")
    shell.run("enqueue", "in.jsonl", *args, code=0)

    with shell.started("run", "-o", ".", stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        said = b""
        while b"no-such-bucket" not in said:
            line = running.stderr.readline()
            assert line, said
            said += line
        running.terminate()
        said += running.stderr.read()

    assert b"there is no bucket no-such-bucket" in said
    assert b"AKIATESTONLY" not in said
    assert b"s3cr3t" not in said
    (job,) = shell.run(*LIST, code=0).document["jobs"]
    assert (job["state"], job["attempts"], job["error"]) == ("complete", 1, None)


def test_a_run_ends_in_time_though_its_store_hangs(shell: Shell, sim: Simulator, s3: S3) -> None:
    """What is not published stays complete; the next run publishes it."""
    shell.extra |= s3.environment | {"OPENAI_API_KEY": "sk-x"}
    shell.write_lines("in.jsonl", *prompts(["a"]))
    args = ("--model", "m", "--base-url", sim.base_url, "-o", f"s3://{s3.bucket}")
    shell.run("enqueue", "in.jsonl", *args, code=0)
    s3.fail("hang")

    with shell.started("run", "-o", ".", stderr=subprocess.DEVNULL) as running:
        until = time.monotonic() + 30
        while not s3.requests()[1:]:
            assert time.monotonic() < until
            time.sleep(0.02)
        begun = time.monotonic()
        running.terminate()
        assert running.wait(30) == 3
        took = time.monotonic() - begun

    assert took < 25  # five seconds by itself; a request of the store may take sixty
    s3.calm()
    shell.run("run", "-o", ".", code=0)
    assert s3.get("a.md") == text_of(sim, "a")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://user:pw@bucket/x", "credentials come from the environment"),
        ("s3://bucket/x?X-Amz-Signature=pw", "credentials come from the environment"),
        ("ftp://bucket/x", "there is no ftp://; there are folders, and s3://, gs://, az://"),
        ("s3://bucket/a/../b", "nothing but dots"),
        ("s3://bucket//b", "is empty"),
        ("s3://", "cannot be a bucket's name"),
        ("s3://bucket/" + "x" * 300, "longer than"),
    ],
)
def test_a_url_that_cannot_be_an_output_is_refused(quick: Quick, url: str, says: str) -> None:
    """Before anything is made, with exit 2, and without repeating what may be a secret."""
    quick.write_lines("in.jsonl", *prompts(["a"]))

    said = quick("enqueue", "in.jsonl", "--model", "m", "-o", url, code=2)

    assert says in said.sentence
    assert "pw" not in said.sentence
    assert not (quick.folder / ".tokenspool").exists()
