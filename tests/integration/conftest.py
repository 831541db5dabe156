"""A folder to stand in, without anybody's settings."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tests.integration.command import Quick, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Give a place to start commands in."""
    return Shell(tmp_path)


@pytest.fixture
def quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Quick:
    """Give the command within this process, standing in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("TOKENSPOOL_", "OPENAI_")):
            monkeypatch.delenv(name)
    # `run` sends its logs to stderr as lines; the next test has its own idea of logging.
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    return Quick(tmp_path, capsys)
