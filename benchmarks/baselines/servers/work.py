"""The work that every server does with a batch of queries: encode, exact top 5, passages with their texts as JSON.

*stock* is what people write: `SentenceTransformer.encode`, faiss `IndexFlatIP`, passages in a list. *plugged* is our encoder and
engine in its place. Both read the same index directory. One thread at a time may call it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..records import STOCK

TOP_K = 5
BATCH_WAIT_S = 0.005
"""How long the servers that batch by a timer wait for a batch to fill."""

Answer = Callable[[Sequence[str]], list[bytes]]
"""Queries to the JSON bodies that answer them, `{"hits": [{"id", "score", "title", "text", "metadata"}, ...]}`."""


@dataclass(frozen=True)
class Given:
    """What a server is told. `batch`: the most queries at once; `workers`: processes that each hold a model."""

    index: str
    kind: str
    port: int
    batch: int
    workers: int

    @classmethod
    def from_environment(cls) -> Given:
        given = json.loads(os.environ["BASELINE"])
        return cls(**given)

    def environment(self) -> dict[str, str]:
        return {"BASELINE": json.dumps(vars(self))}


def load(given: Given) -> Answer:
    """The work, loaded and run once."""
    answer = _stock(given.index) if given.kind == STOCK else _plugged(given.index)
    answer(["what is the first question"])
    return answer


def _stock(folder: str) -> Answer:
    import faiss
    from ragpool.index.models import resolve_model
    from ragpool.index.store import open_index
    from sentence_transformers import SentenceTransformer

    index = open_index(folder)
    prefix = index.manifest.query_prefix
    model = SentenceTransformer(resolve_model(index.manifest.model.name), device="cpu")
    flat = faiss.IndexFlatIP(index.dim)
    flat.add(index.vectors.full)
    passages = [index.passages.get(row) for row in range(index.count)]

    def answer(queries: Sequence[str]) -> list[bytes]:
        vectors = model.encode(
            [prefix + query for query in queries],
            batch_size=len(queries),
            normalize_embeddings=index.manifest.normalized,
            show_progress_bar=False,
        )
        scores, rows = flat.search(vectors, TOP_K)
        return [_body(found, [passages[row] for row in of]) for found, of in zip(scores.tolist(), rows.tolist(), strict=True)]

    return answer


def _plugged(folder: str) -> Answer:
    from ragpool.index.encoder import load_index_encoder
    from ragpool.index.engine import load_engine
    from ragpool.index.store import open_index

    index = open_index(folder)
    encoder = load_index_encoder(index.manifest, "cpu", "float32")
    engine = load_engine(index, "cpu", "exact")
    passages = index.passages

    def answer(queries: Sequence[str]) -> list[bytes]:
        scores, rows = engine.search(encoder.encode(queries, "query").vectors, TOP_K)
        return [_body(found, [passages.get(row) for row in of]) for found, of in zip(scores.tolist(), rows.tolist(), strict=True)]

    return answer


def _body(scores: list[float], passages: list[dict[str, object]]) -> bytes:
    hits = [{**passage, "score": score} for score, passage in zip(scores, passages, strict=True)]
    return json.dumps({"hits": hits}).encode()
