"""Searches an index in this process: encoder, engine and passages in a row. For evaluation; workers have their own pipeline."""

from __future__ import annotations

from .encoder import load_index_encoder
from .engine import AUTO, load_engine
from .evaluate import Search
from .store import Index


def searcher(
    index: Index, device: str = "cpu", dtype: str = "auto", model: str = "", engine: str = AUTO, backend: str = "auto"
) -> Search:
    """(queries, top_k) -> (passage id, score) of each query's results. Raises as `load_index_encoder` and `load_engine`."""
    encoder = load_index_encoder(index.manifest, device, dtype, model, backend=backend)
    finder = load_engine(index, encoder.device, engine)

    def search(queries: list[str], top_k: int) -> list[list[tuple[str, float]]]:
        scores, rows = finder.search(encoder.encode(queries, "query").vectors, top_k)
        return [
            [(str(index.passages.get(row)["id"]), score) for row, score in zip(found, values, strict=True) if row >= 0]
            for found, values in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    return search
