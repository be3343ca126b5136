"""Every program in benchmarks/ can still be started after a change of what it measures."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

PROGRAMS = sorted(path.stem for path in Path(__file__).parents[2].joinpath("benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_finds_what_it_imports(name: str) -> None:
    assert importlib.import_module(name).__doc__
