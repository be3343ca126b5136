"""[GPU] How soon each engine finds the candidates of queries on a CUDA device: measured on random rows, by calibration alone.

It decides about speed only: either engine scores and certifies what it finds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from .arrays import copied
from .engine import EXACT, FAISS
from .errors import ConfigurationError
from .faiss_files import import_faiss_gpu, reason
from .flat_faiss import HalfFaissProduct, cuda_parts, filled
from .manifest import HalfNorms
from .placement import TEMP_BYTES
from .product import Product
from .selection import BLOCK_ROWS, CANDIDATES, keeps_bound, spread

BATCHES = (1, 64)
"""A query alone, as an idle pool answers it, and a batch under load."""

ROWS_MAX = 1 << 18
ROWS_BYTES = 1 << 29
"""Enough that the device is busy, and there in a moment."""

_REPEATS = 7
_UNIT = HalfNorms("bfloat16", 1 + 2.0**-8, 2.0**-8, 1 + 2.0**-20)
"""No row of norm 1 is longer or rounded by more."""

log = logging.getLogger(__name__)

Rates = Mapping[tuple[str, int], float]


def sooner(seconds: Rates) -> str:
    """The engine that takes the least time over all sizes of batch, as their product says: EXACT where none was measured."""
    engines = sorted({name for name, _ in seconds}, key=lambda name: name != EXACT)
    return min(
        engines, key=lambda engine: math.prod(took for (name, _), took in seconds.items() if name == engine), default=EXACT
    )


def try_engines(dim: int, where: torch.device) -> dict[tuple[str, int], float]:
    """Seconds by (engine, batch) over random rows of `dim` values on the CUDA device `where`; an engine that cannot serve there
    is left out. Nothing where no faiss with CUDA is installed: then there is no choice."""
    try:
        import_faiss_gpu()
    except ConfigurationError:
        return {}
    full = unit_rows(min(ROWS_MAX, ROWS_BYTES // (4 * dim)), dim)

    def exact() -> Product:
        return Product(copied(full.bfloat16(), where), _UNIT)

    def faiss() -> Product:
        return HalfFaissProduct(filled(cuda_parts((where.index,), dim, TEMP_BYTES), full), full, _UNIT, where)

    return seconds_of({EXACT: exact, FAISS: faiss}, full)


def unit_rows(count: int, dim: int) -> torch.Tensor:
    """Random float32 (count, dim) of norm 1, always the same ones."""
    rows = torch.randn((count, dim), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows, dim=1)


def seconds_of(
    makes: Mapping[str, Callable[[], Product]], full: torch.Tensor, batches: Sequence[int] = BATCHES
) -> dict[tuple[str, int], float]:
    """Seconds by (engine, batch) of the products that `makes` make over the rows `full`, one at a time: the best of some rounds.
    One that fails, or does not keep its bound, is left out."""
    found: dict[tuple[str, int], float] = {}
    for engine, make in makes.items():
        try:
            torch.cuda.empty_cache()  # what torch kept of the one before
            found |= {(engine, batch): took for batch, took in _tried(make, full, batches).items()}
        except (ConfigurationError, RuntimeError) as error:
            log.warning("the engine %s is passed over: %s", engine, reason(error))
    return found


def _tried(make: Callable[[], Product], full: torch.Tensor, batches: Sequence[int]) -> dict[int, float]:
    """Seconds by batch of the product that `make` makes, which is gone when this returns. Raises `ConfigurationError` where it
    does not keep its bound."""
    product = make()
    if not keeps_bound(product, full, spread(len(full), max(batches))):
        raise ConfigurationError("its products are less precise than it relies on")
    return {batch: _seconds(product, full[:batch].to(product.device)) for batch in batches}


def _seconds(product: Product, queries: torch.Tensor) -> float:
    best = float("inf")
    with torch.inference_mode():
        for _ in range(_REPEATS):
            start = time.perf_counter()
            for found in product.top(queries, CANDIDATES, BLOCK_ROWS):
                found.cpu()  # which waits for the device
            best = min(best, time.perf_counter() - start)
    return best
