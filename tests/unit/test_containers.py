"""What the checks of the container files find, and that ours are without fault."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _check(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up the module that they are in.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


compose, docker = _check("check_compose"), _check("check_dockerfile")
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_ours_are_without_fault() -> None:
    """Both files as they stand."""
    assert compose.problems(COMPOSE) == []
    assert docker.problems(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("    user: postgres\n", "", "postgres: it runs as root"),
        ("    user: redis\n", "    user: root\n", "redis: it runs as root"),
        ("  read_only: true", "  read_only: false", "root file system can be written"),
        ("  cap_drop: [ALL]", "  cap_drop: [NET_RAW]", "keeps capabilities"),
        ("no-new-privileges:true", "no-new-privileges:false", "may gain privileges"),
        ("postgres:18-alpine", "postgres", "version is not named"),
        ("    stop_grace_period: 15s", "    stop_grace_period: 15 seconds", "is no duration"),
        ("    stop_grace_period: 15s", "    stop_grace: 15s", "unknown key stop_grace"),
        ("condition: service_healthy", "condition: healthy", "under the condition healthy"),
        ("      redis:\n        condition", "      radis:\n        condition", "depends on radis"),
        ("${REDIS_PASSWORD:?choose one in .env}@redis", "hunter2@redis", "stands in the file"),
        (
            "${POSTGRES_PASSWORD:?choose one in .env}\n    # The",
            "hunter2\n    # The",
            "in the file",
        ),
        ("    volumes:\n      - redis:/data", '    ports: ["6379:6379"]', "publishes a port"),
        ("  outputs:\n  postgres:", "  postgres:", "volume outputs is not declared"),
    ],
)
def test_a_compose_file_that_became_worse_is_found_out(before: str, after: str, said: str) -> None:
    """Each of these would start, and be a defect; or would not start, which only Docker says."""
    assert before in COMPOSE

    found = compose.problems(COMPOSE.replace(before, after))

    assert any(said in problem for problem in found), found


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("FROM python:3.11-slim-bookworm\n", "FROM python\n", "version of python is not named"),
        ("FROM python:3.11-slim-bookworm\n", "FROM python:latest\n", "is not named"),
        ("USER 10001:10001\n", "", "runs as root"),
        ("USER 10001:10001\n", "USER 10001:10001\nUSER root\n", "runs as root"),
        ("USER 10001:10001\n", "USER 0\n", "runs as 0"),
        ("COPY worker worker", "ADD https://example.org/worker.tar worker", "ADD fetches"),
        ("COPY worker worker", "COPY .env worker/", "file with secrets"),
        ("ENV PATH", "ENV OPENAI_API_KEY=sk-1 PATH", "ENV holds a secret"),
        ("WORKDIR /source", "ARG DB=postgresql://me:secret@db/x", "ARG holds a secret"),
        ('CMD ["worker"]', "CMD worker", "runs in a shell"),
        ("STOPSIGNAL SIGTERM\n", "", "STOPSIGNAL"),
        ('CMD ["python", "-P", "-m", "worker.healthy"]', "NONE", "no HEALTHCHECK"),
        ("--require-hashes", "", "without hashes"),
        ("WORKDIR /source", "WORKDR /source", "unknown instruction WORKDR"),
    ],
)
def test_a_dockerfile_that_became_worse_is_found_out(before: str, after: str, said: str) -> None:
    """Each of these would build."""
    assert before in DOCKERFILE

    found = docker.problems(DOCKERFILE.replace(before, after))

    assert any(said in problem for problem in found), found
