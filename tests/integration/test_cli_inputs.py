"""Bad inputs: each is one sentence that says where and what, and nothing is enqueued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.command import Quick, prompts

GOOD = '{"custom_id": "good", "prompt": "p"}\n'


def listed(quick: Quick) -> list[str]:
    """Give the custom_ids of the jobs that are there."""
    return [job["custom_id"] for job in quick("jobs", "-o", "out", "--json").document["jobs"]]


def enqueue(quick: Quick, *args: str) -> tuple[int, str, str]:
    """Enqueue into `out`; give exit code, stderr, and what became of it."""
    said = quick("enqueue", *args, "-o", "out", "--model", "m")
    assert "Traceback" not in said.err
    return said.code, said.err, said.out


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "in.jsonl:2:"),
        ('{"prompt": "p",}', "in.jsonl:2:"),
        ('["prompt"]', "in.jsonl:2:"),
        ('{"prompt": NaN}', "in.jsonl:2:"),
        ('{"prompt": "p", "params": {"temperature": Infinity}}', "in.jsonl:2:"),
        ('{"prompt": "\\ud800"}', "in.jsonl:2:"),
        ('{"prompt": "p", "params": {"x": ' + "[" * 5000 + "]" * 5000 + "}}", "in.jsonl:2:"),
        ('{"prompt": "p", "params": {"seed": ' + "9" * 5000 + "}}", "in.jsonl:2:"),
        ('{"prompt": "p", "prompt": "q"}', "in.jsonl:2:"),
        ('{"prompt": 1}', "in.jsonl:2:"),
        ('{"custom_id": ["x"], "prompt": "p"}', "in.jsonl:2:"),
        ("{}", "in.jsonl:2:"),
        ('{"messages": []}', "in.jsonl:2:"),
        ('{"custom_id": "good", "prompt": "other"}', "in.jsonl:2: custom_id 'good' is already"),
        ('{"custom_id": "GOOD", "prompt": "p"}', "in.jsonl:2: the output 'GOOD.md'"),
        ('{"custom_id": "../x", "prompt": "p"}', "has a slash or backslash"),
        ('{"custom_id": "/etc/passwd", "prompt": "p"}', "has a slash or backslash"),
        ('{"custom_id": "..\\\\x", "prompt": "p"}', "has a slash or backslash"),
        ('{"custom_id": "a\\u0000b", "prompt": "p"}', "cannot be shown: U+0000"),
        ('{"custom_id": "a\\u001b[2Jb", "prompt": "p"}', "cannot be shown: U+001B"),
        ('{"custom_id": "a\\u202eb", "prompt": "p"}', "cannot be shown: U+202E"),
        ('{"custom_id": "' + "x" * 300 + '", "prompt": "p"}', "is longer than 200 bytes"),
        ('{"custom_id": "..", "prompt": "p"}', "is nothing but dots"),
        ('{"custom_id": "", "prompt": "p"}', "the custom_id is empty"),
        ('{"prompt": "p", "output": "../x.md"}', "in.jsonl:2:"),
        ('{"prompt": "p", "output": "/x.md"}', "in.jsonl:2:"),
        ('{"prompt": "p", "output": ".tokenspool/spool.db"}', "in.jsonl:2:"),
        ('{"prompt": "p", "max_output_tokens": -1}', "in.jsonl:2:"),
        ('{"prompt": "p", "max_output_tokens": true}', "in.jsonl:2:"),
        ('{"prompt": "p", "priority": 3000000000}', "in.jsonl:2:"),
        ('{"prompt": "p", "params": {"n": 2}}', "in.jsonl:2:"),
        ('{"prompt": "p", "api_key": "sk-1"}', "in.jsonl:2:"),
        ('{"custom_id":"r","method":"POST","url":"/v1/embeddings","body":{}}', "in.jsonl:2:"),
    ],
)
def test_a_bad_line_is_told_by_its_place_and_nothing_is_enqueued(
    quick: Quick, line: str, reason: str
) -> None:
    """The first line is good, the second is not: neither becomes a job."""
    quick.write("in.jsonl", GOOD + line + "\n")

    code, err, out = enqueue(quick, "in.jsonl")

    assert code == 2
    assert reason in err
    assert "tokenspool: 1 bad line, so nothing was enqueued" in err
    assert out == ""
    assert "\x1b" not in err
    assert listed(quick) == []


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("in.jsonl", b"", "in.jsonl"),
        ("in.jsonl", b"\n\n \n", "in.jsonl"),
        ("in.jsonl", GOOD.encode("utf-16"), "in.jsonl"),
        ("in.jsonl", b'{"prompt": "\xff"}\n', "in.jsonl:1:"),
        ("in.csv", b"prompt\nx\n", "in.csv"),
        ("in.parquet", b"PAR1", "in.parquet"),
    ],
)
def test_a_file_that_is_no_input_is_refused(
    quick: Quick, name: str, data: bytes, reason: str
) -> None:
    """Empty files, other encodings, and formats that follow later."""
    quick.write(name, data)

    code, err, _ = enqueue(quick, name)

    assert code == 2
    assert reason in err
    assert listed_or_none(quick) == []


def listed_or_none(quick: Quick) -> list[str]:
    """Give the jobs; none if not even a database was made."""
    return listed(quick) if Path("out/.tokenspool/spool.db").exists() else []


@pytest.mark.parametrize("path", ["missing.jsonl", ".", "no/such/folder.jsonl"])
def test_a_path_that_is_no_file_is_refused_in_one_sentence(quick: Quick, path: str) -> None:
    """A missing file and a folder are wrong usage."""
    said = quick("enqueue", path, "-o", "out", "--model", "m", "--batch", "b")

    assert said.code == 2
    assert path in said.sentence


def test_a_line_of_100_mib_is_told_and_not_loaded(quick: Quick) -> None:
    """The limit is bytes of a line; the lines behind it are still looked at."""
    with Path("in.jsonl").open("wb") as file:
        file.write(b'{"prompt": "')
        file.seek(100 * 1024 * 1024)
        file.write(b'"}\n{broken\n')

    code, err, _ = enqueue(quick, "in.jsonl")

    assert code == 2
    assert "in.jsonl:1: " in err
    assert "longer than" in err
    assert "in.jsonl:2: " in err
    assert "2 bad lines" in err


def test_every_bad_line_is_reported(quick: Quick) -> None:
    """A person corrects a file once, not once per mistake."""
    quick.write("in.jsonl", GOOD + "{\n" * 250)

    code, err, _ = enqueue(quick, "in.jsonl")

    assert code == 2
    assert sum(line.startswith("in.jsonl:") for line in err.splitlines()) == 250
    assert "250 bad lines" in err


def test_skip_invalid_takes_the_good_lines(quick: Quick) -> None:
    """The bad ones are still told."""
    quick.write("in.jsonl", GOOD + "{\n")

    code, err, _ = enqueue(quick, "in.jsonl", "--skip-invalid")

    assert code == 0
    assert "in.jsonl:2: " in err
    assert "1 new job, 1 bad line left out" in err
    assert listed(quick) == ["good"]


def test_a_dry_run_checks_and_leaves_no_trace(quick: Quick) -> None:
    """Not even a folder is made."""
    quick.write("in.jsonl", GOOD)

    code, err, _ = enqueue(quick, "in.jsonl", "--dry-run")

    assert code == 0
    assert "1 job to enqueue" in err
    assert [path.name for path in Path().iterdir()] == ["in.jsonl"]


def test_the_same_input_again_is_the_same_jobs(quick: Quick) -> None:
    """A rerun updates options, and other content under the same name is an error."""
    quick.write("in.jsonl", GOOD)
    enqueue(quick, "in.jsonl")

    code, err, _ = enqueue(quick, "in.jsonl")
    assert (code, "1 there already" in err) == (0, True)

    code, err, _ = enqueue(quick, "in.jsonl", "--max-attempts", "9")
    assert (code, "1 with new options" in err) == (0, True)

    quick.write("in.jsonl", '{"custom_id": "good", "prompt": "other"}\n')
    code, err, _ = enqueue(quick, "in.jsonl")
    assert code == 2
    assert "custom_id 'good' is already" in err
    assert listed(quick) == ["good"]


def test_the_answer_for_programs_is_one_document(quick: Quick) -> None:
    """`--json` says in numbers what the sentence says in words."""
    quick.write("in.jsonl", GOOD)

    said = quick("enqueue", "in.jsonl", "-o", "out", "--model", "m", "--json")

    assert said.document == {
        "batch": "out",
        "new": 1,
        "same": 0,
        "updated": 0,
        "invalid": 0,
        "accepted": True,
    }
    assert said.err == ""


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("enqueue",), "say what to enqueue"),
        (("enqueue", "in.jsonl"), "model"),
        (("enqueue", "in.jsonl", "--model", "m", "-o", ""), "-o names no folder"),
        (("run", "in.jsonl", "--model", "m", "-o", " "), "-o names no folder"),
        (("status", "-o", ""), "-o names no folder"),
        (("enqueue", "in.jsonl", "other.jsonl", "--model", "m"), "it needs a name: --batch"),
        (
            ("enqueue", "in.jsonl", "--model", "m", "--api", "responses"),
            "follows in a later version",
        ),
        (
            ("enqueue", "in.jsonl", "--model", "m", "--api", "x"),
            "--api x is not one; there is: chat",
        ),
        (("enqueue", "in.jsonl", "--model", "m", "--resume", "x"), "Invalid value for '--resume'"),
        (("enqueue", "in.jsonl", "--model", "m", "--on-seam", "x"), "--on-seam is mark or fail"),
        (("enqueue", "in.jsonl", "--model", "m", "--name", "{x}"), "--name '{x}'"),
        (("enqueue", "in.jsonl", "--model", "m", "--base-url", "ftp://x"), "the base URL must"),
        (("enqueue", "in.jsonl", "--model", "m", "--base-url", "http://u:pw@x"), "password"),
        (("enqueue", "in.jsonl", "--model", "m", "--batch", "../x"), "slash"),
        (("enqueue", "in.jsonl", "--model", "m", "-o", "s4://b/x"), "there is no s4://"),
        (("run", "in.jsonl", "--model", "m", "-o", "s3://b/x"), "not a URL"),
        (("enqueue", "in.jsonl", "--model", "m", "-o", "in.jsonl"), "in.jsonl"),
        (("enqueue", "in.jsonl", "--model", "m", "-o", "link"), "is a link to"),
        (("enqueue", "in.jsonl", "--model", "m", "-o", "/proc/x"), "it cannot be written to"),
        (("enqueue", "in.jsonl", "--model", "m", "--db", "mysql://x"), "not in mysql"),
        (("enqueue", "in.jsonl", "--max-attempts", "0", "--model", "m"), "'--max-attempts'"),
        (("run",), "Missing option '-o'"),
        (("run", "-o", "nothing"), "there is no database"),
        (("run", "in.jsonl", "--model", "m", "-o", "link"), "is a link to"),
        (("run", "in.jsonl", "--model", "m", "-o", "in.jsonl"), "in.jsonl"),
        (("status", "-o", "nothing"), "there is no database"),
        (("export", "b", "--db", "nothing"), "there is no database"),
    ],
)
def test_wrong_usage_changes_nothing(quick: Quick, args: tuple[str, ...], reason: str) -> None:
    """Exit 2, one sentence, no secret in it."""
    quick.write("in.jsonl", GOOD)
    quick.write("other.jsonl", GOOD)
    Path("elsewhere").mkdir()
    Path("link").symlink_to("elsewhere")

    said = quick(*args)

    assert said.code == 2, said
    assert reason in said.sentence + said.err
    assert "pw@" not in said.err
    assert list(Path("elsewhere").iterdir()) == []


def test_unknown_names_are_answered_with_those_there_are(quick: Quick) -> None:
    """Jobs, batches and settings."""
    quick.write("in.jsonl", GOOD)
    enqueue(quick, "in.jsonl")

    assert "no job is called 'x'" in quick("show", "x", "-o", "out").sentence
    assert "there are: 'out'" in quick("status", "--batch", "x", "-o", "out").sentence
    assert "there are: 'out'" in quick("cancel", "--batch", "x", "-o", "out").sentence
    assert "say which jobs" in quick("cancel", "-o", "out").sentence
    assert "say which jobs" in quick("resume", "-o", "out").sentence
    Path("tokenspool.toml").write_text("stream = 1\n")
    assert "did you mean 'streams'?" in quick("status", "-o", "out").sentence


def test_a_database_of_a_newer_version_is_left_alone(quick: Quick) -> None:
    """Exit 4, and what to do."""
    quick.write("in.jsonl", GOOD)
    enqueue(quick, "in.jsonl")
    from tokenspool.database import Database, sqlite_url  # noqa: PLC0415

    database = Database(sqlite_url(Path("out/.tokenspool/spool.db").absolute()))
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()

    for command in (("status",), ("run",), ("enqueue", "in.jsonl", "--model", "m")):
        said = quick(*command, "-o", "out")
        assert said.code == 4
        assert "newer tokenspool (revision 9999)" in said.sentence


def test_a_file_that_is_no_database_is_left_alone(quick: Quick) -> None:
    """Neither text nor another program's SQLite file is touched."""
    Path("out/.tokenspool").mkdir(parents=True)
    spool = Path("out/.tokenspool/spool.db")
    spool.write_text("precious")

    said = quick("status", "-o", "out")

    assert said.code == 4
    assert "is not a database of tokenspool" in said.sentence
    assert spool.read_text() == "precious"


@pytest.mark.parametrize(
    ("one", "other"),
    [("README", "readme"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")],
)
def test_names_that_a_file_system_may_take_for_one_are_refused(
    quick: Quick, one: str, other: str
) -> None:
    """Equal but for case or Unicode form: one of the two texts would be lost on some disks."""
    quick.write_lines("in.jsonl", *prompts([one, other]))

    code, err, _ = enqueue(quick, "in.jsonl")

    assert code == 2
    assert "in.jsonl:2: the output" in err
    assert listed(quick) == []


def test_bad_metadata_never_reaches_the_terminal_alive(quick: Quick) -> None:
    """Names from an input are shown as escapes, whatever they try."""
    line = json.dumps({"prompt": "p", "zz\x1b]0;owned\x07": 1})
    quick.write("in.jsonl", line + "\n")

    _, err, _ = enqueue(quick, "in.jsonl")

    assert "zz" in err
    assert "\x1b" not in err


def test_run_and_enqueue_call_a_folders_jobs_alike(
    quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --batch both name the batch after the folder: the same line is the same job."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")
    quick.write("in.jsonl", GOOD)
    quick.write("more.jsonl", GOOD)
    enqueue(quick, "in.jsonl", "more.jsonl")
    gone = ("--base-url", "http://127.0.0.1:9/v1", "--endpoint-patience", "0")

    said = quick("run", "in.jsonl", "-o", "out", "--model", "m", *gone, code=4)

    assert "1 line: 0 new jobs, 1 with new options" in said.err
    assert listed(quick) == ["good"]
