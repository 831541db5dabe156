from __future__ import annotations

import errno
import sys

import pytest

from cli.main import COMMANDS, hoisted, main
from cli.printing import amount, duration, size
from tokenspool.errors import Unavailable, UsageError


@pytest.mark.parametrize(
    ("given", "front"),
    [
        ("status --json", "--json status"),
        ("status --db x --batch b", "--db x status --batch b"),
        ("--debug status --db=x", "--debug --db=x status"),
        ("enqueue -- --json", "enqueue -- --json"),
    ],
)
def test_what_stands_everywhere_is_accepted_behind_the_command(given: str, front: str) -> None:
    """The four options are moved to the front; what follows `--` is left alone."""
    assert hoisted(given.split()) == front.split()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("statsu", "there is no command 'statsu'; did you mean status?"),
        ("jobs --state x", "there is no state 'x'; there are: pending,"),
        ("jobs --error x", "there is no error kind 'x'; there are: connect,"),
        ("jobs --limit 0", "Invalid value for '--limit'"),
        ("jobs --bogus", "No such option: --bogus"),
        ("show", "Missing argument 'JOB'"),
        ("prune", "Missing option '--older-than'"),
        ("prune --older-than soon", "--older-than 'soon' is not an age"),
        ("export b -f csv", "'csv' follows in a later version; there are: jsonl, batch"),
        ("export b -f xml", "'xml' is no format; there are: jsonl, batch"),
        ("export b --json", "with --json the answers need a file of their own"),
        ("status --db", "--db needs a URL"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(
    argv: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, no traceback, and stdout stays empty."""
    code = main(argv.split())

    out, err = capsys.readouterr()
    assert code == 2
    assert said in err
    assert err.startswith("tokenspool: ")
    assert err.count("\n") == 1
    assert out == ""


def test_every_command_has_a_file_and_the_sentence_that_the_list_shows() -> None:
    """The list of commands is written apart from their files: both must know each other."""
    assert main(["--help"]) == 0
    for name in COMMANDS:
        assert main([name, "--help"]) == 0


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("wrong"), 2, "tokenspool: wrong\n"),
        (Unavailable("away"), 4, "tokenspool: away\n"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 4, "tokenspool: /x: No space left\n"),
        (RuntimeError("\x1b[2J"), 4, "tokenspool: this is a fault of tokenspool itself"),
        (KeyboardInterrupt(), 3, "tokenspool: interrupted; what is committed stays"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_each_ending_has_its_exit_code(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever a command raises becomes one sentence and a number of the contract."""

    def fail() -> None:
        raise error

    monkeypatch.setattr("cli.version.invocation", lambda _ctx: fail())
    monkeypatch.setattr("cli.main.os.dup2", lambda *_: None)

    assert main(["version"]) == code

    err = capfd.readouterr().err
    assert err.startswith(said) if said else err == ""
    assert "\x1b" not in err
    assert "Traceback" not in err


def test_debug_shows_where_an_error_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The traceback comes only when it is asked for, and the sentence still follows."""

    def fail(_ctx: object) -> None:
        msg = "wrong"
        raise UsageError(msg)

    monkeypatch.setattr("cli.version.invocation", fail)

    assert main(["version", "--debug"]) == 2

    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("tokenspool: wrong\n")


def test_a_closed_standard_output_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tokenspool version >&-` has nowhere to print and nothing to complain about."""
    monkeypatch.setattr(sys, "stdout", None)

    assert main(["version"]) == 0


def test_numbers_are_said_as_people_say_them() -> None:
    """Amounts, sizes and durations."""
    assert amount(1, "job") == "1 job"
    assert amount(1500, "job") == "1,500 jobs"
    assert amount(2, "entry", "entries") == "2 entries"
    assert [size(n) for n in (0, 1023, 1536, 5 * 1024**3)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
    ]
    assert [duration(s) for s in (0.4, 61, 3725, 90_000)] == ["0s", "1m 1s", "1h 2m", "1d 1h"]
