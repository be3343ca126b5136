"""[GPU] The engine for flat indexes: scans half-precision rows, scores candidates exactly, and certifies that nothing was missed.

For each query the c = max(32, 2k) rows with the largest half-precision products are scored again from the float32 rows. If even
the largest score that a row outside of them could have (see `product`) stays below the k-th of theirs, the answer is certified.
Otherwise every row that could reach the k-th score is scored, found by a float32 scan where they are too many. So the answer
is that of an exact search whichever way it was found; only the time differs.

Scores are those of `scoring`, ties in the order of rows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .arrays import tensor_of
from .manifest import HalfNorms
from .product import Bound, Product, VectorProduct
from .scoring import exact_scores, scaled_queries, unscaled
from .selection import best_first, chosen_products

CANDIDATES_MIN = 32
AGAIN_MAX = 64
"""Queries that are looked at once more in one pass."""

RESCORE_MAX = 4_096
"""Rows of one query that are worth scoring before a float32 scan narrows them down."""

PRODUCTS_MAX = 1 << 24
"""Products held at a time, which bounds the rows of a block."""

BLOCK_ROWS_MIN = 4_096


class ExactEngine:
    """Inner products over `full` float32 (count, dim), on any device, with `product` on the one that multiplies."""

    name = "exact"
    exact = True
    one_at_a_time = False
    k_max: int | None = None

    def __init__(self, full: torch.Tensor, product: Product, norms: HalfNorms, alone: Product | None = None) -> None:
        """`alone` multiplies where there is one query only; None: `product` does."""
        self.count, self.dim = full.shape
        self.device = str(product.device)
        self.certified = self.rescored = self.scanned = 0
        self._full = full
        self._product = product
        self._alone = alone or product
        self._narrow = Product(full, norms, product.device)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `Engine.search`. Counts in `certified`, `rescored` and `scanned` which way each query went."""
        scaled, exponents = scaled_queries(queries, self.dim, k)
        k = min(k, self.count)
        scores = np.empty((len(queries), k), dtype=np.float64)
        rows = np.empty((len(queries), k), dtype=np.int64)
        with torch.inference_mode():
            step = max(1, PRODUCTS_MAX // BLOCK_ROWS_MIN)
            for start in range(0, len(queries), step):
                part = slice(start, start + step)
                some = torch.from_numpy(scaled[part]).to(self._product.device)
                found_scores, found_rows = self._search(some, k)
                scores[part], rows[part] = found_scores.cpu().numpy(), found_rows.cpu().numpy()
        return unscaled(scores, exponents), rows

    def _search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        block_rows = max(BLOCK_ROWS_MIN, PRODUCTS_MAX // len(queries))
        product = self._product if len(queries) > 1 else self._alone
        c = min(self.count, max(CANDIDATES_MIN, 2 * k))
        products, candidates = product.top(queries, c, block_rows)
        exact = exact_scores(self._full, queries, candidates)
        scores, rows = best_first(exact, candidates, k)
        bound = product.bound(queries)
        missed = self._open(scores[:, -1], products, bound) if c < self.count else queries.new_zeros(0, dtype=torch.int64)
        self.certified += len(queries) - len(missed)
        if len(missed):
            self._search_again(product, queries, bound, missed, scores, rows)
        return scores, rows

    def _open(self, kth: torch.Tensor, products: torch.Tensor, bound: Bound) -> torch.Tensor:
        """The queries for which a row outside the candidates could have the k-th score or more."""
        return (kth <= bound.upper(products.amin(dim=1))).nonzero()[:, 0]

    def _search_again(
        self,
        product: Product,
        queries: torch.Tensor,
        bound: Bound,
        missed: torch.Tensor,
        scores: torch.Tensor,
        rows: torch.Tensor,
    ) -> None:
        """For the queries at `missed` all rows are scored that could have the k-th score, of which `scores` has a lower bound;
        `scores` and `rows` float64, int64 (n, k) are filled in."""
        k = scores.shape[1]
        zero = ~queries[missed].any(dim=1)
        scores[missed[zero]], rows[missed[zero]] = 0.0, torch.arange(k, device=rows.device)  # every score is 0
        missed = missed[~zero]
        for start in range(0, len(missed), AGAIN_MAX):
            some = missed[start : start + AGAIN_MAX]
            least = bound.of(some).least_product(scores[some, -1])
            found = product.at_least(queries[some], least, max(BLOCK_ROWS_MIN, PRODUCTS_MAX // len(some)))
            for position, within in zip(some.tolist(), found, strict=True):
                query = slice(position, position + 1)
                within = self._narrowed(queries[query], scores[query, -1], within)
                scores[query], rows[query] = best_first(exact_scores(self._full, queries[query], within[None]), within[None], k)

    def _narrowed(self, query: torch.Tensor, kth: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """`rows`, or where they are too many to be scored those that a float32 scan finds."""
        if len(rows) <= RESCORE_MAX:
            self.rescored += 1
            return rows
        self.scanned += 1
        least = self._narrow.bound(query).least_product(kth)
        return self._narrow.at_least(query, least, PRODUCTS_MAX)[0]


def engine_on_cpu(full: NDArray[np.float32], half: NDArray[np.uint16], norms: HalfNorms) -> ExactEngine:
    """The engine over mapped rows float32 (count, dim) and their bfloat16 copies, of which nothing is copied."""
    wide, narrow = tensor_of(full), tensor_of(half).view(torch.bfloat16)
    product, alone = chosen_products(Product(narrow, norms), Product(wide, norms), VectorProduct(wide, norms))
    return ExactEngine(wide, product, norms, alone)
