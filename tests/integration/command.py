"""The `tokenspool` command as a person starts it: a process of its own, or quicker in this one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cli.main import main

#: As every document says it.
COMMAND = (sys.executable, "-P", "-m", "tokenspool")
#: A loaded machine gets this long.
LIMIT_S = 50


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Give the one JSON document of stdout; nothing else may stand there."""
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """Give the one sentence on stderr that tells a person why it did not work."""
        assert "Traceback" not in self.err
        assert self.out == ""
        lines = [line for line in self.err.splitlines() if line.startswith("tokenspool: ")]
        assert len(lines) == 1, self.err
        return lines[0]


@dataclass
class Shell:
    """A folder to stand in and an environment without settings of anybody's."""

    folder: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Give the environment of a command."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TOKENSPOOL_", "OPENAI_"))}
        return kept | {"NO_PROXY": "127.0.0.1", "PYTHONPATH": ""} | self.extra

    def run(self, *args: str, stdin: bytes | None = None, code: int | None = None) -> Said:
        """Run a command to its end; with `code` it must end with that."""
        done = subprocess.run(
            (*COMMAND, *args),
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        said = Said(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert code in {None, said.code}, said
        return said

    @contextlib.contextmanager
    def started(self, *args: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command that runs while the block runs and never outlives it."""
        command = (*COMMAND, *args)
        with subprocess.Popen(command, cwd=self.folder, env=self.environment, **options) as process:
            try:
                yield process
            finally:
                process.kill()

    def write_lines(self, name: str, *lines: Mapping[str, object]) -> None:
        """Write an input file of JSON lines."""
        write_lines(self.folder / name, lines)


@dataclass
class Quick:
    """The same command without a process of its own: for what needs no signals and no pipes."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *args: str, code: int | None = None) -> Said:
        """Run a command to its end; with `code` it must end with that."""
        self.capsys.readouterr()
        ended = main(args)
        said = Said(ended, *self.capsys.readouterr())
        assert code in {None, said.code}, said
        return said

    def write(self, name: str, data: str | bytes) -> None:
        """Write an input file."""
        path = self.folder / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    def write_lines(self, name: str, *lines: Mapping[str, object]) -> None:
        """Write an input file of JSON lines."""
        write_lines(self.folder / name, lines)


def prompts(names: Sequence[str]) -> list[dict[str, object]]:
    """Give short-form lines with these custom_ids."""
    return [{"custom_id": name, "prompt": f"Write about {name}."} for name in names]


def write_lines(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
