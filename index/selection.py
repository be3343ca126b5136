"""[GPU] Which candidates come first, and which products this device computes fastest."""

from __future__ import annotations

import time

import torch

from .product import Product
from .scoring import exact_scores

_SAMPLE_ROWS = 32_768
_BOUND_ROWS = 4_096
_SAMPLE_QUERIES = 8
_REPEATS = 3

CANDIDATES = 32
BLOCK_ROWS = 1 << 18
"""As where they are looked for: candidates of a query, and rows at a time."""


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


def keeps_bound(product: Product, full: torch.Tensor, places: torch.Tensor) -> bool:
    """Whether what `product` finds for the rows of `full` at `places` int64 (n,), asked for one by one and together, is within
    its bound of their scores; and whether each finds a row that is as near as itself. Any device."""
    with torch.inference_mode():
        queries = full[places.to(full.device)].to(product.device)
        return all(_finds(product, full, some, its) for some, its in ((queries[:1], places[:1]), (queries, places)))


def spread(count: int, some: int) -> torch.Tensor:
    """`some` of `count` rows, int64, as far apart as can be."""
    return torch.linspace(0, count - 1, some, dtype=torch.float64).long()


def _finds(product: Product, full: torch.Tensor, queries: torch.Tensor, places: torch.Tensor) -> bool:
    products, rows = product.top(queries, min(CANDIDATES, len(full)), BLOCK_ROWS)
    bound = product.bound(queries)
    room = bound.absolute[:, None] + bound.relative * products.abs()
    own = exact_scores(full, queries, places[:, None].to(queries.device))
    near = bool(((products - exact_scores(full, queries, rows)).abs() <= room).all())
    return near and bool(((products + room).amax(dim=1) >= own[:, 0]).all())


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
