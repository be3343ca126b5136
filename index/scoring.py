"""[GPU] Scores as clients see them: inner products summed in float64 and rounded to float32 once, whoever found the candidates.

The same row has the same score in every batch, and equal rows have equal scores, which go by row number. Never a matrix product,
whose order of summation depends on where a row stands.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

SCORED_VALUES_MAX = 1 << 23
SCORED_VALUES_MAX_CPU = 1 << 16
"""Values of candidate rows held at a time in float64. On a CPU they stay in its caches and in memory that it has already: with
fresh memory for all candidates of 16 queries the same sums take ten times as long."""


def scaled_queries(queries: NDArray[np.float32], dim: int, k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Queries brought to a norm between 1/2 and 1 by a power of two, which changes no order and loses no bit; the powers.

    Raises ValueError for queries that are not float (n, dim), values that are not finite, or k < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k} and must be at least 1")
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"queries have the shape {queries.shape}, wanted are rows of {dim} values")
    exact = queries.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ValueError("a query has values that are not finite")
    _, exponents = np.frexp(np.sqrt(np.einsum("ij,ij->i", exact, exact)))
    return np.ldexp(exact, -exponents[:, None]).astype(np.float32), exponents


def unscaled(scores: NDArray[np.float64], exponents: NDArray[np.int32]) -> NDArray[np.float32]:
    """Scores (n, k) of the queries as they were. One beyond float32 is infinite."""
    with np.errstate(over="ignore"):
        return np.ldexp(scores, exponents[:, None]).astype(np.float32)


def exact_scores(vectors: torch.Tensor, queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The scores, as float32 holds them, of `rows` int64 (n, c) of `vectors`, any float (count, dim) on any device, with their
    queries; float64 (n, c) on the queries' device."""
    n, c = rows.shape
    dim = vectors.shape[1]
    scores = torch.empty((n, c), dtype=torch.float64, device=queries.device)
    most = SCORED_VALUES_MAX_CPU if queries.device.type == "cpu" else SCORED_VALUES_MAX
    wide = max(1, min(c, most // dim))
    high = max(1, most // (dim * wide))
    exact = queries.double()
    for top in range(0, n, high):
        for left in range(0, c, wide):
            some = rows[top : top + high, left : left + wide]
            taken = vectors.index_select(0, some.reshape(-1).to(vectors.device)).to(queries.device)
            terms = taken.view(*some.shape, dim).double()
            terms *= exact[top : top + high, None, :]
            scores[top : top + high, left : left + wide] = terms.sum(dim=2)
    return scores.float().double()
