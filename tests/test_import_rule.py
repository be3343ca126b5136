"""Imports point one way, pure files stay pure, and light packages stay light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("conf", "wire", "index", "broker", "worker", "supervisor", "client")

MAY_IMPORT = {
    "conf": set(),
    "wire": set(),
    "index": {"conf", "wire"},
    "broker": {"conf", "wire"},
    "supervisor": {"conf", "wire"},
    "client": {"conf", "wire"},
    "worker": {"conf", "wire", "index"},
}
"""What a folder may import of the others. Only cli files compose."""

HEAVY = {"torch", "faiss", "sentence_transformers", "transformers"}


def modules() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).glob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of each import statement."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                yield node.level, node.module
            else:
                yield from ((node.level, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_point_one_way(path: Path) -> None:
    folder = path.parent.name
    for level, name in imports_of(path):
        first = name.split(".")[0]
        assert level > 0 or first not in FOLDERS, f"{name}: the bare folder name would load a second copy of the module"
        assert level > 0 or first != "ragpool", f"{name}: between folders imports are relative"
        if level == 2 and not path.name.startswith("cli"):
            assert first in MAY_IMPORT[folder], f"{folder} may not import {first}"


@pytest.mark.parametrize(
    "path", sorted(p for d in ("tests", "benchmarks") for p in (ROOT / d).rglob("*.py")), ids=lambda p: p.name
)
def test_everything_else_says_ragpool(path: Path) -> None:
    for level, name in imports_of(path):
        assert level > 0 or name.split(".")[0] not in FOLDERS, f"{name}: say ragpool.{name}"


def loaded_by(module: str) -> set[str]:
    script = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    return set(json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout))


@pytest.mark.parametrize(
    "module",
    ["ragpool.client", "ragpool.broker", "ragpool.broker.main", "ragpool.broker.cli", "ragpool.supervisor",
     "ragpool.supervisor.loop", "ragpool.index", "ragpool.index.manifest", "ragpool.index.cli", "ragpool.worker.main",
     "ragpool.worker.cli", "ragpool.client.cli", "ragpool.client.bench"],
)  # fmt: skip
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    assert not loaded_by(module) & HEAVY


def test_a_worker_knows_its_threads_before_it_loads_numbers() -> None:
    assert "numpy" not in loaded_by("ragpool.worker.cli")


def test_the_parent_of_a_pool_opens_no_network_socket_of_its_own() -> None:
    assert "zmq" not in loaded_by("ragpool.supervisor.loop")


def test_the_client_loads_no_numbers_until_they_are_asked_for() -> None:
    assert not loaded_by("ragpool.client") & {"numpy", "click", "tomli", "tomllib"}
