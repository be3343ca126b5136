"""Every program in benchmarks/ still finds what it measures after a change of it, also what it imports when it runs."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PROGRAMS = sorted(FOLDER.rglob("*.py"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_it_finds_what_it_imports_of_us(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ragpool"):
            missing = [each.name for each in node.names if not found(node.module, each.name)]
            assert not missing, f"{node.module} has no {', '.join(missing)} (line {node.lineno})"


def found(module: str, name: str) -> bool:
    return hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}") is not None


@pytest.mark.parametrize("name", [path.stem for path in PROGRAMS if path.parent == FOLDER])
def test_it_can_be_started(name: str) -> None:
    assert importlib.import_module(name).__doc__
