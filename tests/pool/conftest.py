"""One small real index for all tests of real pools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import Pool, run_cli, running_pool
from ragpool.index.demo import demo_rows

PASSAGES = 240


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginnings of the demo corpus' first passages, built by the command."""
    folder = tmp_path_factory.mktemp("index")
    corpus = folder / "corpus.jsonl"
    with corpus.open("w") as out:
        for row, _ in zip(demo_rows(), range(PASSAGES)):
            passage = row.passage
            out.write(json.dumps({"_id": passage.id, "title": passage.title, "text": passage.text[:200]}) + "\n")
    built = run_cli("rag-index", "build", str(corpus), "--out", str(folder / "index"))
    assert built.returncode == 0, built.stderr
    return folder / "index"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    Pool.end_loose()


@pytest.fixture(scope="module")
def pool(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Two CPU workers."""
    with running_pool(tmp_path_factory.mktemp("pool"), "--index", str(index), "--workers", "2", "--device", "cpu") as pool:
        yield pool
