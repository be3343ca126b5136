"""[GPU] Approximate inner products of queries with all rows, block by block, and how far they may be off.

With a the product as computed and s the true inner product, |a - s| <= absolute + relative * |a| for every row, where
absolute = ‖e_q‖·max‖x̂‖ + ‖q‖·max‖e_x‖ + d·2^-23·‖q‖·max‖x‖, with q = q̂ + e_q and x = x̂ + e_x as rounded, and the last term
for the float32 sum of d terms. A product that comes out in bfloat16 is off by 2^-8 * |a| more. The norms are measured, not
assumed: the worst case would be several times as wide and certify little among near-duplicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .manifest import HalfNorms

_BF16_OUTPUT = 2.0**-8 * (1 + 2.0**-6)
_FLOAT32_SUM = 2.0**-23


@dataclass(frozen=True, slots=True)
class Bound:
    """`absolute` float64 (n,) per query, `relative` of the product itself."""

    absolute: torch.Tensor
    relative: float

    def upper(self, products: torch.Tensor) -> torch.Tensor:
        """The largest true score that a row with this product, or a smaller one, can have."""
        return products + self.absolute + self.relative * products.abs()

    def least_product(self, scores: torch.Tensor) -> torch.Tensor:
        """The smallest product that a row with at least this true score can have."""
        needed = scores - self.absolute
        return torch.where(needed >= 0, needed / (1 + self.relative), needed / (1 - self.relative))

    def of(self, queries: torch.Tensor) -> Bound:
        """The same for some of the queries."""
        return Bound(self.absolute[queries], self.relative)


class Product:
    """`matrix` (count, dim) in bfloat16 or float32, on the device that multiplies."""

    def __init__(self, matrix: torch.Tensor, norms: HalfNorms) -> None:
        self.matrix = matrix
        self.count, self.dim = matrix.shape
        self.dtype = matrix.dtype
        self._norms = norms

    def bound(self, queries: torch.Tensor) -> Bound:
        """For `queries` float32 (n, dim)."""
        exact = queries.double()
        norm = torch.linalg.vector_norm(exact, dim=1)
        summing = self.dim * _FLOAT32_SUM * norm * self._norms.full_max
        if self.dtype == torch.float32:
            return Bound(summing, 0.0)
        error = torch.linalg.vector_norm(exact - queries.to(self.dtype).double(), dim=1)
        return Bound(error * self._norms.half_max + norm * self._norms.error_max + summing, _BF16_OUTPUT)

    def blocks(self, queries: torch.Tensor, block_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, products (n, rows)) of one block of rows after the other."""
        rounded = queries.to(self.dtype)
        for first in range(0, self.count, block_rows):
            yield first, rounded @ self.matrix[first : first + block_rows].T

    def top(self, queries: torch.Tensor, c: int, block_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows with the c largest products: (products float64 (n, c), rows int64 (n, c)), unordered."""
        values: list[torch.Tensor] = []
        rows: list[torch.Tensor] = []
        for first, products in self.blocks(queries, max(block_rows, c)):
            found = products.topk(min(c, products.shape[1]), dim=1, sorted=False)
            values.append(found.values)
            rows.append(found.indices + first)
        if len(values) == 1:
            return values[0].double(), rows[0]
        joined = torch.cat(values, dim=1)
        best = joined.topk(c, dim=1, sorted=False)
        return best.values.double(), torch.cat(rows, dim=1).gather(1, best.indices)

    def at_least(self, query: torch.Tensor, least: float, block_rows: int) -> torch.Tensor:
        """The rows, ascending, whose product with one query, float32 (1, dim), is `least` or more."""
        return torch.cat(
            [first + (products[0].double() >= least).nonzero()[:, 0] for first, products in self.blocks(query, block_rows)]
        )
