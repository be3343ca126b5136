"""[GPU] Approximate inner products of queries with all rows, block by block, and how far they may be off.

With a the product as computed and s the true inner product, |a - s| <= absolute + relative * |a| for every row, where
absolute = ‖e_q‖·max‖x̂‖ + ‖q‖·max‖e_x‖ + d·2^-23·‖q‖·max‖x‖, with q = q̂ + e_q and x = x̂ + e_x as rounded, and the last term
for the float32 sum of d terms, whatever its order. A product that comes out in bfloat16 is off by 2^-8 * |a| more. What a
processor that knows no denormals loses (less than 2·d·2^-126 for queries of norm 1) is added. The norms are measured, not
assumed: the worst case would be several times as wide and certify little among near-duplicates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .arrays import COPIED_ROWS
from .manifest import HalfNorms

_BF16_OUTPUT = 2.0**-8 * (1 + 2.0**-6)
_FLOAT32_SUM = 2.0**-23
_FLUSHED = 2.0**-125


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
    """`matrix` (count, dim) in bfloat16 or float32. `device` multiplies; None: the one where the rows are. From another they are
    copied there block by block, at each search."""

    def __init__(self, matrix: torch.Tensor, norms: HalfNorms, device: torch.device | None = None) -> None:
        self.matrix = matrix
        self.count, self.dim = matrix.shape
        self.dtype = matrix.dtype
        self.device = device or matrix.device
        self._norms = norms

    def bound(self, queries: torch.Tensor) -> Bound:
        """For `queries` float32 (n, dim)."""
        exact = queries.double()
        norm = torch.linalg.vector_norm(exact, dim=1)
        summing = self.summing(norm)
        if self.dtype == torch.float32:
            return Bound(summing, 0.0)
        error = torch.linalg.vector_norm(exact - queries.to(self.dtype).double(), dim=1)
        return Bound(error * self._norms.half_max + norm * self._norms.error_max + summing, _BF16_OUTPUT)

    def summing(self, norm: torch.Tensor) -> torch.Tensor:
        """How far the sums alone may be off, for queries of this norm."""
        return self.dim * (_FLOAT32_SUM * norm * self._norms.full_max + _FLUSHED)

    def blocks(self, queries: torch.Tensor, block_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, products (n, rows)) of one block of rows after the other."""
        rounded = queries.to(self.matrix.dtype)
        if self.matrix.device != self.device:
            block_rows = min(block_rows, COPIED_ROWS)
        for first in range(0, self.count, block_rows):
            yield first, rounded @ self.matrix[first : first + block_rows].to(self.device).T

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

    def at_least(self, queries: torch.Tensor, least: torch.Tensor, block_rows: int) -> list[torch.Tensor]:
        """For each of `queries` float32 (n, dim) the rows, ascending, whose product is `least` float64 (n,) or more.

        One pass over the rows for all of them.
        """
        threshold = torch.nextafter(least.float(), least.new_tensor(-math.inf).float())[:, None]  # never above `least`
        positions: list[torch.Tensor] = []
        rows: list[torch.Tensor] = []
        for first, products in self.blocks(queries, block_rows):
            position, row = (products >= threshold).nonzero(as_tuple=True)
            positions.append(position)
            rows.append(row + first)
        joined = torch.cat(positions)
        in_order = torch.cat(rows)[joined.argsort(stable=True)]
        ends = joined.bincount(minlength=len(queries)).cumsum(0).tolist()
        return [in_order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class VectorProduct(Product):
    """Float32 products of one query on the CPU by numpy, whose BLAS reads the rows faster than torch's where that is MKL on a
    processor it was not made for: 1.3 ms instead of 2.8 for 29k x 384."""

    def blocks(self, queries: torch.Tensor, block_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        matrix = self.matrix.numpy()
        for first in range(0, self.count, block_rows):
            yield first, torch.from_numpy(queries.numpy() @ matrix[first : first + block_rows].T)
