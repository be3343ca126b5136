"""Vectors to rows: what every engine promises, and which one serves an index. Loads torch only when an engine is loaded."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError
from .store import Index

AUTO = "auto"
EXACT = "exact"
FAISS = "faiss"
ENGINES = (AUTO, EXACT, FAISS)


class Engine(Protocol):
    """Searches `count` rows of `dim` values on `device`. One thread owns it."""

    name: str
    device: str
    count: int
    dim: int

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k' = min(k, count)` rows with the largest inner products: (scores float32 (n, k'), rows int64 (n, k')).

        `queries` is float32 (n, dim). Best first, equal scores by row number. Raises ValueError for queries of another shape,
        values that are not finite, or k < 1.
        """
        ...


def load_engine(index: Index, device: str, engine: str = AUTO) -> Engine:
    """The engine for `index` on `device`; `auto` is `exact`. Raises `ConfigurationError` or `DeviceUnavailable`."""
    if engine not in ENGINES:
        raise ConfigurationError(f"there is no engine {engine!r}: known are {', '.join(ENGINES)}")
    if engine == FAISS:
        from .flat_faiss import load_faiss

        return load_faiss(index, device)
    from .exact import load_exact

    return load_exact(index, device)
