"""The examples in docstrings."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from tokenspool import names
from tokenspool.inputs import document


@pytest.mark.parametrize("module", [names, document])
def test_the_examples_in_docstrings_are_true(module: ModuleType) -> None:
    """What a docstring shows is what comes out."""
    failed, tried = doctest.testmod(module)

    assert tried > 0
    assert failed == 0
