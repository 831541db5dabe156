"""SIGTERM and SIGINT: out within five seconds, nothing lost, and the attempts given back."""

from __future__ import annotations

import contextlib
import re
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.crash.stage import PATIENCE_S, Stage, ending, wait_until
from tests.crash.verifier import snapshot, verify

INTERRUPTED = 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_loses_nothing(stage: Stage, number: signal.Signals) -> None:
    """All that was received is committed, no attempt is spent, and the same command goes on."""
    _check_drain(stage, number, streams=64)


@pytest.mark.soak
def test_a_signal_drains_500_streams(stage: Stage) -> None:
    """So it is under load."""
    _check_drain(stage, signal.SIGTERM, streams=500)


def _check_drain(stage: Stage, number: signal.Signals, *, streams: int) -> None:
    stage.enqueue(stage.prompts([300] * streams))
    command = stage.run_command("--streams", str(streams))
    said = stage.root / "said"

    with ending(stage.start(command, said=said)) as run:
        wait_until(lambda: stage.simulator.stats()["generated"] > streams * 40, of=run)
        asked = time.monotonic()
        run.send_signal(number)
        assert run.wait(PATIENCE_S) == INTERRUPTED
        assert time.monotonic() - asked < 5

    assert b"Traceback" not in said.read_bytes()
    state = verify(stage.database, drained=False, reference=stage.reference)
    assert state.by_state == {"pending": streams}
    assert {(job["owner"], job["attempts"], job["crashes"]) for job in state.jobs} == {(None, 0, 0)}
    assert {attempt["outcome"] for attempt in state.attempts} == {"given_back"}
    stage.done(command)
    verify(stage.database, before=snapshot(state), reference=stage.reference)


@pytest.mark.slow
def test_what_is_received_while_draining_is_kept(stage: Stage) -> None:
    """A drain is no crash: hardly a token is generated twice."""
    lengths = [400] * 16
    stage.enqueue(stage.prompts(lengths))
    command = stage.run_command("--streams", "16")

    with ending(stage.start(command)) as run:
        wait_until(lambda: stage.simulator.stats()["generated"] > 16 * 100, of=run)
        run.send_signal(signal.SIGTERM)
        assert run.wait(PATIENCE_S) == INTERRUPTED
    stage.done(command)

    verify(stage.database, reference=stage.reference)
    generated = stage.simulator.stats()["generated"]
    # A word is held back at each seam, and a tick's worth may still be in the sockets.
    assert generated - sum(lengths) <= 16 * 8


@pytest.mark.slow
def test_a_signal_is_heard_before_the_database_answers(stage: Stage) -> None:
    """Another process writes all the time: waiting for it is no reason to be deaf."""
    stage.enqueue(stage.prompts([50] * 4))
    said = stage.root / "said"

    with (
        contextlib.closing(sqlite3.connect(stage.database, isolation_level=None)) as other,
        ending(stage.start(stage.run_command(), said=said)) as run,
    ):
        other.execute("BEGIN IMMEDIATE")
        wait_until(lambda: _catches(run.pid, signal.SIGTERM), of=run)
        asked = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait(PATIENCE_S) == INTERRUPTED
        assert time.monotonic() - asked < 5

    assert b"Traceback" not in said.read_bytes()


def _catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    assert caught is not None
    return bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(stage: Stage) -> None:
    """Asked twice it does not wait for anything; what was committed stands."""
    stage.enqueue(stage.prompts([300] * 64))

    with ending(stage.start(stage.run_command("--streams", "64"))) as run:
        wait_until(lambda: stage.simulator.stats()["generated"] > 64 * 40, of=run)
        run.send_signal(signal.SIGTERM)
        run.send_signal(signal.SIGINT)
        asked = time.monotonic()
        assert run.wait(PATIENCE_S) == INTERRUPTED
        assert time.monotonic() - asked < 1

    state = verify(stage.database, drained=False, reference=stage.reference)
    assert not set(state.by_state) - {"pending", "running"}
