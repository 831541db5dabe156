"""A simulator in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from simulator.process import start
from simulator.settings import SimSettings
from tests.unit.simulator.client import body_of

COMMAND = (sys.executable, "-P", "-m", "simulator")


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_simulator_lives_as_long_as_its_block() -> None:
    """It answers within, with the settings it was given; behind the block it is gone."""
    settings = SimSettings(tokens=7, rules=(), seed=3, models=("one",))

    with start(settings) as simulator:
        request = urllib.request.Request(  # noqa: S310 - our own
            f"{simulator.base_url}/chat/completions", body_of(model="one", stream=False)
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - our own
            said = json.load(answer)["choices"][0]["message"]["content"]
        asked = json.loads(body_of(model="one"))

        assert said == simulator.text(asked)
        assert simulator.text(asked, tokens=9).startswith(said)
        assert simulator.stats()["generated"] == 7
        assert [record["tokens"] for record in simulator.requests()] == [7]
        simulator.reset()
        assert simulator.stats()["generated"] == 0
    assert not is_alive(simulator.pid)


def test_a_simulator_ends_with_its_parent() -> None:
    """When the parent is killed, nobody is left to stop it: the end of standard input does."""
    with subprocess.Popen(
        (*COMMAND, "--with-parent"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        assert process.stdin
        process.stdin.close()

        assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_simulator_stops_when_told_also_amid_a_stream(number: signal.Signals) -> None:
    """At once, without a word on stderr; a live stream is broken off."""
    with subprocess.Popen(
        (*COMMAND, "--rate", "50", "--tokens", "100000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        port = int(process.stdout.readline().decode().strip().rsplit(":", 1)[1].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            body = body_of()
            head = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n"
            client.sendall(head % len(body) + body)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            process.send_signal(number)

            assert process.wait(10) == 0
        assert process.stderr
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "wrong",
    [["--fault", "nonsense"], ["--prefix", "maybe"], ["--script", "/no/such/file"], ["--port"]],
)
def test_wrong_usage_is_two(wrong: list[str]) -> None:
    """With a sentence on stderr and nothing on stdout."""
    done = subprocess.run((*COMMAND, *wrong), capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_taken_is_four() -> None:
    """With a sentence that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            (*COMMAND, "--port", str(port)), capture_output=True, text=True, check=False
        )

    assert done.returncode == 4
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_every_flag_arrives(tmp_path: Path) -> None:
    """Flags and a script become the settings that they name."""
    script = tmp_path / "script.json"
    script.write_text('[{"when": {"request": 1}, "fault": {"status": 503, "retry_after": 1}}]')
    flags = "--tokens 5 --seed 2 --sampling --shape refrain --model m --fault crlf@2"
    command = (*COMMAND, "--with-parent", *flags.split(), "--script", str(script))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        url = process.stdout.readline().decode().strip()
        answers = []
        for _ in range(2):
            request = urllib.request.Request(f"{url}/chat/completions", body_of())  # noqa: S310 - our own
            try:
                with urllib.request.urlopen(request) as answer:  # noqa: S310 - our own
                    answers.append((answer.status, answer.read()))
            except urllib.error.HTTPError as error:
                with error:
                    answers.append((error.status or 0, error.read()))
        process.terminate()

    assert [status for status, _ in answers] == [503, 200]
    assert answers[1][1].count(b"\r\n\r\n") == 5 + 3
    assert "·4 ".encode() in answers[1][1]
