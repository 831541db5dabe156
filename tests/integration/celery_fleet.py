"""A fleet whose workers are woken through a broker."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.contract.brokers import Place
from tests.integration.fleet import LIMIT_S, Fleet, Process

ROOT = Path(__file__).resolve().parents[2]
CELERY = (sys.executable, "-P", "-m", "celery", "-A", "worker.app")
#: So that nobody needs a key, and one that leaks is found.
KEY = "sk-this-key-is-in-no-message"


@dataclass
class CeleryFleet(Fleet):
    """A fleet with a broker."""

    place: Place = field(kw_only=True)

    @property
    def environment(self) -> dict[str, str]:
        """Give the environment of a command."""
        own = {"TOKENSPOOL_BROKER_URL": self.place.url, "TOKENSPOOL_BROKER_QUEUE": self.place.queue}
        return super().environment | own | {"OPENAI_API_KEY": KEY}

    @contextlib.contextmanager
    def leased_worker(self, *, lease_s: float, streams: int = 8) -> Iterator[Process]:
        """Run a worker with a broker while the block runs; its lease is the test's."""
        module = ("-m", "tests.integration.celery_worker", self.url, str(lease_s), str(streams))
        command = (sys.executable, "-P", *module, self.place.url, self.place.queue)
        with self._started(*command) as process:
            yield process

    @contextlib.contextmanager
    def celery_worker(self, *args: str) -> Iterator[Process]:
        """Run `celery -A worker.app worker` while the block runs."""
        with self._started(*CELERY, "worker", *args) as process:
            yield process

    def celery(self, *args: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Celery's to its end."""
        environment = {**self.environment, **extra}
        return subprocess.run(
            (*CELERY, *args),
            cwd=self.folder,
            env={name: value for name, value in environment.items() if value},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
