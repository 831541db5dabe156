"""Figures that a person wants to see although the tests passed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Report = Callable[[str], None]
#: Lines for the end of the session.
LINES = pytest.StashKey[list[str]]()
