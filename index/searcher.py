"""Searches an index in this process: encoder, engine and passages in a row. For evaluation; workers have their own pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..conf.settings import Settings
from .effort import NEIGHBOURS, recall, true_neighbours
from .encoder import load_index_encoder
from .engine import load_engine
from .index_types import HNSW
from .manifest import FLAT
from .own_rows import check_own_rows, differing_files
from .placement import engine_device
from .store import Index

_BLOCK_ROWS = 8_192

Named = Callable[[str, Mapping[str, object]], str]
Blocks = Callable[[], Iterator[NDArray[np.float32]]]


class Searcher:
    """(queries, top_k) -> (id, score) of each query's results, ids as `named` by id and metadata of a passage.

    Of an index that is not flat also how much was found of what an exact search over its stored rows finds. The index stands
    where a worker with these `settings` on `device` has it; one that no CUDA device searches, on cpu. Raises as
    `load_index_encoder` and `load_engine`.
    """

    def __init__(self, index: Index, device: str, settings: Settings, named: Named) -> None:
        self._index = index
        self._named = named
        worker, how = settings.worker, settings.index
        self._encoder = load_index_encoder(index.manifest, device, worker.dtype, worker.model, backend=worker.backend)
        if differing_files(index, self._encoder):
            check_own_rows(index, self._encoder)
        where = engine_device(index.manifest.type, self._encoder.device, how.gpu)
        self._engine = load_engine(index, where, how.engine, how.gpus_per_worker, effort=how.effort)
        self._blocks = stored_blocks(index)
        self._encoded: dict[tuple[str, ...], NDArray[np.float32]] = {}
        self._recalls: list[tuple[int, float]] = []

    @property
    def devices(self) -> tuple[str, str]:
        """Where texts are encoded, and where the index is searched."""
        return self._encoder.device, self._engine.device

    def __call__(self, queries: list[str], top_k: int) -> list[list[tuple[str, float]]]:
        vectors = self._vectors(tuple(queries))
        scores, rows = self._engine.search(vectors, top_k)
        if self._blocks is not None and top_k == NEIGHBOURS:
            truth = true_neighbours(self._blocks(), vectors, np.full(len(vectors), -1), min(NEIGHBOURS, self._index.count))
            self._recalls.append((len(vectors), recall(rows.tolist(), truth)))
        return [
            [(self._name(row), score) for row, score in zip(found, values, strict=True) if row >= 0]
            for found, values in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _name(self, row: int) -> str:
        passage = self._index.passages.get(row)
        return self._named(passage["id"], passage["metadata"])

    def _vectors(self, queries: tuple[str, ...]) -> NDArray[np.float32]:
        """Encoded once: the same queries are searched to several depths."""
        if queries not in self._encoded:
            self._encoded[queries] = self._encoder.encode(list(queries), "query").vectors
        return self._encoded[queries]

    def recall_against_exact(self) -> float | None:
        """recall@10 of all searches for ten so far against an exact search; None where the index is flat, or keeps no rows."""
        asked = sum(count for count, _ in self._recalls)
        return sum(count * found for count, found in self._recalls) / asked if asked else None


def stored_blocks(index: Index) -> Blocks | None:
    """The rows of an index that is not flat, as they are kept in float16, for refinement or in a graph; None where they are
    not."""
    count = index.count
    if index.manifest.type == FLAT:
        return None
    refine = index.part.refine
    if refine is not None:
        return lambda: (refine[first : first + _BLOCK_ROWS].astype(np.float32) for first in range(0, count, _BLOCK_ROWS))
    if index.manifest.type != HNSW:
        return None
    from .faiss_engine import read_part

    part = read_part(index)
    return lambda: (part.reconstruct_n(first, min(_BLOCK_ROWS, count - first)) for first in range(0, count, _BLOCK_ROWS))
