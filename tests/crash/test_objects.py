"""A SIGKILL at every point of publishing an object: the next run publishes exactly the text."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator import process as simulators
from simulator.process import Simulator
from simulator.settings import SimSettings
from tests.crash.nursery import ONE_PUT_BYTES, nursery
from tests.crash.points import object_points
from tests.crash.stage import MODEL
from tests.s3 import S3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
JOBS = 6
#: A text takes one of the two ways, and comes by its points alone.
ONLY_ON = {"before_put": "short", "before_last_part": "long"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """Serve short answers at once."""
    with simulators.start(SimSettings(tokens=40, rate=0)) as running:
        yield running


CASES = [
    (point, way, visit)
    for point in object_points()
    for way in ("short", "long")
    for visit in (1, 2)
    if ONLY_ON.get(point, way) == way and not (point.endswith("done") and visit > 1)
]


@pytest.mark.parametrize(("point", "way", "visit"), CASES)
def test_a_kill_at_any_point_is_followed_by_the_exact_object(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    simulator: Simulator,
    s3: S3,
    point: str,
    way: str,
    visit: int,
) -> None:
    """After the kill an object is whole or not there at all; after the next run all are."""
    if way == "long":
        monkeypatch.setenv(ONE_PUT_BYTES, "10")
    database = tmp_path / "spool.db"
    prompts = [f"Tell me {number}." for number in range(JOBS)]
    lines = [{"custom_id": f"j-{n}", "prompt": prompt} for n, prompt in enumerate(prompts)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = {f"out/j-{n}.md": _text(simulator, prompt) for n, prompt in enumerate(prompts)}
    request = ("--base-url", simulator.base_url, "--model", MODEL, "--db", str(database))
    with nursery() as children:
        children.command("enqueue", tmp_path / "in.jsonl", "-o", f"s3://{s3.bucket}/out", *request)
        ended = children.run(database, point=point, visit=visit)
        assert ended == -signal.SIGKILL, f"{point} was not met {visit} times"
        there = s3.keys()
        assert {key: s3.get(key) for key in there} == {key: texts[key] for key in there}

        assert children.run(database) == 0

    assert {key: s3.get(key) for key in s3.keys()} == texts  # noqa: SIM118 - no dict


def _text(simulator: Simulator, prompt: str) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    return simulator.text(body).encode()
