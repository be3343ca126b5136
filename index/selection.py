"""[GPU] Which candidates come first, and which products this device computes fastest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch

from .product import Product
from .scoring import exact_scores

_SAMPLE_ROWS = 65_536
_BOUND_ROWS = 4_096
_SAMPLE_QUERIES = 8
_BATCH, _CANDIDATES = 64, 32
_REPEATS = 5


def best_first(scores: torch.Tensor, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of (scores, rows), both (n, c), in order; equal scores by row number."""
    by_row = rows.sort(dim=1)
    by_score = scores.gather(1, by_row.indices).sort(dim=1, descending=True, stable=True)
    return by_score.values[:, :k], by_row.values.gather(1, by_score.indices[:, :k])


def chosen_products(half: Product, full: Product, vector: Product) -> tuple[Product, Product]:
    """(the product for batches, the one for a query alone): the fastest on this processor of those that keep their bound on it.

    Measured on the rows that are there, as far as `_SAMPLE_ROWS`, in some dozen milliseconds: a query alone is bound by the
    memory, which fewer rows would not show. It decides about speed only.
    """
    rows = min(_SAMPLE_ROWS, half.count)
    queries = full.matrix[:: max(1, full.count // _SAMPLE_QUERIES)][:_SAMPLE_QUERIES].clone()
    with torch.inference_mode():
        sound = [half] if all(_within_bound(half, full, queries[:count], rows) for count in (1, len(queries))) else []
        together = min([*sound, full], key=lambda product: _seconds(product, queries, rows))
        return together, min([*sound, full, vector], key=lambda product: _seconds(product, queries[:1], rows))


def fastest_top(makes: Sequence[Callable[[], Product]], full: torch.Tensor) -> tuple[int, list[float]]:
    """Which of the products that `makes` make over the rows `full` float32 (count, dim) finds the candidates of a batch first, of
    those that keep their bound; and the seconds of each, inf for one that does not. One is held at a time.

    It decides about speed only. Raises `RuntimeError` where none keeps its bound.
    """
    queries = full[:: max(1, len(full) // _BATCH)][:_BATCH].clone()
    seconds = [_seconds_to_top(make(), full, queries) for make in makes]
    if min(seconds) == math.inf:
        raise RuntimeError("no product of this device keeps its bound")
    return seconds.index(min(seconds)), seconds


def _seconds_to_top(product: Product, full: torch.Tensor, queries: torch.Tensor) -> float:
    c = min(_CANDIDATES, len(full))
    best = math.inf
    with torch.inference_mode():
        queries = queries.to(product.device)
        for _ in range(_REPEATS):
            start = time.perf_counter()
            products, rows = (found.cpu() for found in product.top(queries, c, len(full)))
            best = min(best, time.perf_counter() - start)
        near = queries.cpu()
        off = (products - exact_scores(full, near, rows)).abs()
        bound = product.bound(queries)
        room = bound.absolute.cpu()[:, None] + bound.relative * products.abs()
        return best if bool((off <= room).all()) else math.inf


def _within_bound(half: Product, full: Product, queries: torch.Tensor, rows: int) -> bool:
    rows = min(rows, _BOUND_ROWS)
    products = (queries.to(half.dtype) @ half.matrix[:rows].T).double()
    exact = queries.double() @ full.matrix[:rows].double().T
    bound = half.bound(queries)
    return bool(((products - exact).abs() <= bound.absolute[:, None] + bound.relative * products.abs()).all())


def _seconds(product: Product, queries: torch.Tensor, rows: int) -> float:
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        next(product.blocks(queries, rows))
        best = min(best, time.perf_counter() - start)
    return best
