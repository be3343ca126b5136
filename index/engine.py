"""Vectors to rows: what every engine promises, and which one serves an index. Loads torch only when an engine is loaded."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError
from .manifest import FLAT
from .store import Index

AUTO = "auto"
EXACT = "exact"
FAISS = "faiss"
ENGINES = (AUTO, EXACT, FAISS)


class Engine(Protocol):
    """Searches `count` rows of `dim` values on `device`. `one_at_a_time`: threads that search must take turns, since the
    effort of a search or scratch memory on the device is for one."""

    name: str
    one_at_a_time: bool
    device: str
    count: int
    dim: int

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k' = min(k, count)` rows with the largest inner products: (scores float32 (n, k'), rows int64 (n, k')). An engine
        that does not visit every row may find fewer: the rest are row -1 with the score -inf, and stand last.

        `queries` is float32 (n, dim). Best first, equal scores by row number. Raises ValueError for queries of another shape,
        values that are not finite, or k < 1.
        """
        ...


def load_engine(index: Index, device: str, engine: str = AUTO, gpus: int = 1) -> Engine:
    """The engine for `index` on `device` (and the `gpus` - 1 devices after it); `auto` is `exact` for a flat index on the CPU,
    the faster one on a CUDA device, and faiss for any other index. Raises `ConfigurationError` or `DeviceUnavailable`."""
    if engine not in ENGINES:
        raise ConfigurationError(f"there is no engine {engine!r}: known are {', '.join(ENGINES)}")
    kind = index.manifest.type
    if kind != FLAT:
        if engine == EXACT:
            raise ConfigurationError(
                f"the index {index.path} is of type {kind!r}, which only the engine faiss searches, not exact"
            )
        from .faiss_engine import load_part

        return load_part(index, device, gpus)
    from .flat_loading import load_flat

    return load_flat(index, device, {AUTO: None, EXACT: False, FAISS: True}[engine], gpus)
