"""Vectors to rows: what every engine promises, and which one serves an index. Loads torch only when an engine is loaded."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError
from .manifest import FLAT, Manifest
from .store import Index

AUTO = "auto"
EXACT = "exact"
FAISS = "faiss"
ENGINES = (AUTO, EXACT, FAISS)

FLOAT16_NORM_MAX = 60_000.0
"""Rows longer than this may hold values beyond float16, in which faiss keeps them on a CUDA device."""


class Engine(Protocol):
    """Searches `count` rows of `dim` values on `device`. `exact`: the first rows of a search for more are those of a search for
    fewer; other engines look further for more, and may find others. `one_at_a_time`: threads that search must take turns, since
    the effort of a search or scratch memory on the device is for one. `k_max`: the most rows that a search may ask for, where
    `count` is larger; None for any number."""

    name: str
    exact: bool
    one_at_a_time: bool
    k_max: int | None
    device: str
    count: int
    dim: int

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k' = min(k, count)` rows with the largest inner products: (scores float32 (n, k'), rows int64 (n, k')). An engine
        that does not visit every row may find fewer: the rest are row -1 with the score -inf, and stand last.

        `queries` is float32 (n, dim). Best first, equal scores by row number. Raises ValueError for queries of another shape,
        values that are not finite, k < 1, or one over `k_max`.
        """
        ...


def flat_engine(wanted: str, fastest: str, gpus: int, longest: float) -> str:
    """EXACT or FAISS: the engine of a flat index on `gpus` CUDA devices, whose longest row has the norm `longest`.

    AUTO is `fastest`, which calibration found there, where it can serve these rows; only faiss spreads them over several devices.
    Raises `ConfigurationError` where the one that is wanted cannot.
    """
    if wanted == EXACT and gpus > 1:
        raise ConfigurationError("the engine exact stands on 1 device: use the engine faiss, or index.gpus_per_worker = 1")
    short = longest <= FLOAT16_NORM_MAX
    if wanted == AUTO:
        wanted = FAISS if gpus > 1 or (fastest == FAISS and short) else EXACT
    if wanted == FAISS and not short:
        raise ConfigurationError(
            f"the rows of this index are too long for faiss' float16 (norms of up to {longest:.3g}): use the engine exact, on "
            "1 device"
        )
    return wanted


def idle_effort(effort: int, manifest: Manifest, name: str) -> tuple[str, ...]:
    """A warning where the setting `index.effort` does nothing for the index that is called `name`: there is nothing to choose."""
    if not effort or manifest.search.effort:
        return ()
    return (f"index.effort = {effort} does nothing for {name}: an index of type {manifest.type} leaves no such choice",)


def load_engine(
    index: Index, device: str, engine: str = AUTO, gpus: int = 1, *, effort: int = 0, sharing: int = 1, fastest: str = EXACT
) -> Engine:
    """The engine for `index` on `device` (and the `gpus` - 1 devices after it), which so many workers are `sharing`.

    `auto` is faiss for any index but a flat one; for that it is `exact` on the CPU, and on a CUDA device `fastest`, which
    calibration found. `effort`: how much a search visits, 0 for as much as the manifest says; see `idle_effort`. Raises
    `ConfigurationError` or `DeviceUnavailable`, and `DeviceFull` where there is no room now.
    """
    if engine not in ENGINES:
        raise ConfigurationError(f"there is no engine {engine!r}: known are {', '.join(ENGINES)}")
    kind = index.manifest.type
    if kind != FLAT:
        if engine == EXACT:
            raise ConfigurationError(
                f"the index {index.path} is of type {kind!r}, which only the engine faiss searches, not exact"
            )
        from .faiss_engine import load_part

        return load_part(index, device, gpus, effort)
    from .flat_loading import load_flat

    return load_flat(index, device, engine, gpus, sharing, fastest)
