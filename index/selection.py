"""[GPU] Which candidates come first, and which of two products this processor computes faster."""

from __future__ import annotations

import time

import torch

from .product import Product

_SAMPLE_ROWS = 4_096
_SAMPLE_QUERIES = 8
_REPEATS = 3


def best_first(scores: torch.Tensor, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of (scores, rows), both (n, c), in order; equal scores by row number."""
    by_row = rows.sort(dim=1)
    by_score = scores.gather(1, by_row.indices).sort(dim=1, descending=True, stable=True)
    return by_score.values[:, :k], by_row.values.gather(1, by_score.indices[:, :k])


def chosen_product(half: Product, full: Product) -> Product:
    """The half-precision product, unless this processor is slower with it than with float32, or computes it outside its bound.

    Measured on a few thousand rows, in some milliseconds. It decides about speed only.
    """
    rows = min(_SAMPLE_ROWS, half.count)
    queries = full.matrix[:: max(1, full.count // _SAMPLE_QUERIES)][:_SAMPLE_QUERIES].clone()
    with torch.inference_mode():
        if not all(_within_bound(half, full, queries[:count], rows) for count in (1, len(queries))):
            return full
        return half if _seconds(half, queries, rows) <= _seconds(full, queries, rows) else full


def _within_bound(half: Product, full: Product, queries: torch.Tensor, rows: int) -> bool:
    products = (queries.to(half.dtype) @ half.matrix[:rows].T).double()
    exact = queries.double() @ full.matrix[:rows].double().T
    bound = half.bound(queries)
    return bool(((products - exact).abs() <= bound.absolute[:, None] + bound.relative * products.abs()).all())


def _seconds(product: Product, queries: torch.Tensor, rows: int) -> float:
    rounded = queries.to(product.dtype)
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        rounded @ product.matrix[:rows].T
        best = min(best, time.perf_counter() - start)
    return best
