"""[GPU] The engine for every index type but flat: faiss finds candidates in its part, and float16 rows score them where they are
kept.

Scores of a refined index are those of `scoring` over the float16 rows; of any other they are what faiss computes from its codes.
Results stand in the order of their scores, ties in the order of rows. Where faiss finds fewer than k rows even when it visits
everything, the rest are row -1 with the score -inf, which no client ever sees.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .arrays import tensor_of
from .devices import resolve_device
from .effort import NEIGHBOURS
from .errors import IndexDamaged
from .faiss_files import EF_SEARCH, PROBES, effort_of, lists_of, read_mapped, set_effort
from .manifest import SearchFacts
from .placement import check_memory, memory_limit
from .scoring import exact_scores, scaled_queries, unscaled
from .store import Index
from .vectors import PART

CUDA_K_MAX = 2_048
"""Results of one search on a CUDA device, and lists that it visits (faiss, `GpuIndex::search`, `validateNProbe`)."""

_PER_HIT = 4
"""Candidates scored again for each result, where more results are wanted than the calibration asked for."""


class FaissPartEngine:
    """`Engine` over a faiss index of (count, dim), whose effort `facts` tells, and float16 rows `refine` (count, dim) or None.

    `part`: the index on the CPU that `index` was cloned from, None where it is that itself: what a clone is made of only the
    original tells.
    """

    name = "faiss"
    exact = False
    one_at_a_time = True

    def __init__(
        self,
        index: Any,
        facts: SearchFacts,
        refine: torch.Tensor | None,
        device: str = "cpu",
        k_max: int | None = None,
        part: Any = None,
    ) -> None:
        self.count, self.dim = int(index.ntotal), int(index.d)
        self.device = device
        self._index = index
        self._facts = facts
        self._refine = refine
        self.k_max = k_max
        self._parameter = effort_of(index if part is None else part)
        self._lists = lists_of(index if part is None else part)
        self._effort_max = self._lists if k_max is None else min(self._lists, k_max)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `Engine.search`."""
        scaled, exponents = scaled_queries(queries, self.dim, k)
        k = min(k, self.count)
        depth = self._depth(k)
        if self.k_max is not None and depth > self.k_max:
            if k > self.k_max:
                raise ValueError(
                    f"k is {k}: faiss finds at most {self.k_max} rows on {self.device}; ask for fewer, or search on cpu"
                )
            depth = self.k_max
        effort = self._effort(depth)
        scores, rows = self._found(scaled, depth, effort)
        short = np.flatnonzero((rows[:, :k] < 0).any(axis=1)) if self._parameter == PROBES else np.empty(0, np.int64)
        while len(short) and effort < self._effort_max:
            effort = min(4 * effort, self._effort_max)
            scores[short], rows[short] = self._found(scaled[short], depth, effort)
            short = short[(rows[short, :k] < 0).any(axis=1)]
        return self._best(scaled, scores, rows, k, exponents)

    def _depth(self, k: int) -> int:
        if self._refine is None:
            return k
        return min(self.count, max(self._facts.candidates, _PER_HIT * k))

    def _effort(self, depth: int) -> int:
        """What the calibration found or an operator chose, and more where more rows are wanted than that looks for."""
        if self._parameter == EF_SEARCH:
            return max(self._facts.effort, depth if depth <= NEIGHBOURS else 2 * depth)
        if self._parameter == PROBES:
            return min(self._effort_max, max(self._facts.effort, -(-2 * depth * self._lists // self.count)))
        return 0

    def _found(self, queries: NDArray[np.float32], depth: int, effort: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        set_effort(self._index, self._parameter, effort)
        scores, rows = self._index.search(queries, depth)
        return scores, rows

    def _best(
        self,
        queries: NDArray[np.float32],
        scores: NDArray[np.float32],
        rows: NDArray[np.int64],
        k: int,
        exponents: NDArray[np.int32],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if self._refine is not None:
            with torch.inference_mode():
                places = torch.from_numpy(np.maximum(rows, 0))
                values = exact_scores(self._refine, torch.from_numpy(queries), places).numpy()
        else:
            values = scores.astype(np.float64)
        values = np.where((rows < 0) | np.isnan(values), -np.inf, values)
        order = np.lexsort((np.where(rows < 0, self.count, rows), -values), axis=1)[:, :k]
        best, found = np.take_along_axis(values, order, axis=1), np.take_along_axis(rows, order, axis=1)
        return unscaled(best, exponents), np.where(np.isneginf(best), -1, found)


def engine_of(part: NDArray[np.uint8], refine: NDArray[np.float16] | None, facts: SearchFacts, where: str) -> FaissPartEngine:
    """The engine on the CPU over mapped bytes of a faiss file and mapped float16 rows (count, dim). Raises as `load_part`."""
    return FaissPartEngine(read_mapped(part, where), facts, tensor_of(refine) if refine is not None else None)


def read_part(index: Index) -> Any:
    """The mapped faiss index of an `index` that is not flat. Raises `ConfigurationError` without faiss, `IndexDamaged` where it
    is not what the manifest says."""
    part = read_mapped(index.part.part, str(index.path / index.manifest.files[PART].name))
    if (int(part.ntotal), int(part.d)) != (index.count, index.dim):
        raise IndexDamaged(
            f"the index {index.path} is damaged: its faiss part holds {part.ntotal} rows of {part.d} values, its manifest says "
            f"{index.count} of {index.dim}"
        )
    return part


def load_part(index: Index, device: str, gpus: int = 1, effort: int = 0) -> FaissPartEngine:
    """The engine for an index that is not flat; `effort` as of `load_engine`. Raises as `read_part`, and `DeviceUnavailable`
    where it does not fit the device, or faiss cannot search it there, `DeviceFull` where it finds no room now."""
    facts, rows = index.manifest.search, index.part.refine
    facts = replace(facts, effort=effort or facts.effort)
    refine = tensor_of(rows) if rows is not None else None
    where = resolve_device(device)
    if where.type == "cpu":
        check_memory(str(index.path), "the bytes of its faiss part", facts.part_bytes, memory_limit())
        return FaissPartEngine(read_part(index), facts, refine)
    from .faiss_gpu import clone

    part = read_part(index)
    return FaissPartEngine(clone(part, index, str(where), gpus), facts, refine, str(where), CUDA_K_MAX, part)
