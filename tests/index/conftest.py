"""An index of a few passages by the real model, built once; and a double of the encoder where the vectors do not matter."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hashing_encoder import HashingEncoder
from ragpool.index import build as builder
from ragpool.index.build import BuildOptions, Built, build_index
from ragpool.index.encoder import SentenceEncoder, load_encoder
from ragpool.index.models import resolve_model

os.environ["HF_HUB_OFFLINE"] = "1"

PASSAGES = [
    {"_id": "moon", "title": "Moon", "text": "The Moon is the only natural satellite of the Earth.", "year": 1969},
    {"_id": "hamlet", "title": "Hamlet", "text": "Hamlet is a tragedy that William Shakespeare wrote around 1600."},
    {"_id": "python", "title": "Python", "text": "Python is a programming language created by Guido van Rossum."},
    {"_id": "tea", "title": "Tea", "text": "Tea is a drink made by pouring hot water over cured leaves."},
    {"_id": "everest", "title": "", "text": "Mount Everest is the highest mountain above sea level."},
    {"_id": "whale", "title": "Blue whale", "text": "The blue whale is the largest animal known to have existed."},
]


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> type[HashingEncoder]:
    """Builds use `HashingEncoder`."""
    monkeypatch.setattr(builder, "_encoder", HashingEncoder)
    return HashingEncoder


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (maps, or lines as they are) to a JSONL file."""

    def write(rows: Sequence[object], name: str = "corpus.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="session")
def encoder() -> SentenceEncoder:
    return load_encoder("all-MiniLM-L6-v2", "cpu", backend="torch")


@pytest.fixture(scope="session")
def library() -> Any:
    """sentence-transformers' own model: the truth."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(resolve_model("all-MiniLM-L6-v2"), device="cpu")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The index of `PASSAGES` by the real model. Nobody may change it."""
    folder = tmp_path_factory.mktemp("small")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(passage) + "\n" for passage in PASSAGES))
    return build_index([corpus], folder / "index", BuildOptions(device="cpu"))
