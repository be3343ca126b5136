"""[GPU] faiss as a finder of candidates among the rows of a flat index; scored and certified like those of the `exact` engine.

On the CPU it multiplies the mapped float32 rows, which it does not copy. On CUDA devices it holds float16 copies, all on one
device or a share on each of several, put there by one `add` into an empty index: faiss reserves what they need at once, and
copies them page by page, where copying a CPU index over would hold them several times (faiss, `GpuIndexFlat::add`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .exact import ExactEngine
from .faiss_engine import CUDA_K_MAX
from .faiss_files import import_faiss, import_faiss_gpu
from .manifest import HalfNorms
from .product import Bound, Product

_HALF = 2.0**-11
_HALF_SUBNORMAL = 2.0**-25


class FaissProduct(Product):
    """Float32 products by faiss' brute-force search, which copies no rows."""

    def top(self, queries: torch.Tensor, c: int, block_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        faiss = import_faiss()
        products, rows = faiss.knn(queries.numpy(), self.matrix.numpy(), c, metric=faiss.METRIC_INNER_PRODUCT)
        return torch.from_numpy(products).double(), torch.from_numpy(rows)


class HalfFaissProduct(Product):
    """Products of the float16 rows in the faiss index `part` with float16 queries. `matrix` are the float32 rows, which may stand
    elsewhere: passes over all rows, and more results than faiss gives, are theirs, copied block by block to `device`."""

    def __init__(self, part: Any, matrix: torch.Tensor, norms: HalfNorms, device: torch.device) -> None:
        super().__init__(matrix, norms, device)
        self.dtype = torch.float16
        self._part = part

    def bound(self, queries: torch.Tensor) -> Bound:
        """See `Product.bound`; of rows in float16 no error was measured, so that the worst case stands: 2^-11 of a value, 2^-25
        where it is subnormal. It holds for float32 products of the same rows all the more."""
        exact = queries.double()
        norm = torch.linalg.vector_norm(exact, dim=1)
        of_query = torch.linalg.vector_norm(exact - queries.half().double(), dim=1)
        of_row = _HALF * self._norms.full_max + math.sqrt(self.dim) * _HALF_SUBNORMAL
        return Bound(of_query * (self._norms.full_max + of_row) + norm * of_row + self.summing(norm), 0.0)

    def top(self, queries: torch.Tensor, c: int, block_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Product.top`."""
        if c > CUDA_K_MAX:
            return super().top(queries, c, block_rows)
        rounded = queries.half().float().cpu().numpy()  # in half precision for faiss, which takes float32
        products, rows = self._part.search(rounded, c)
        return torch.from_numpy(products).double().to(self.device), torch.from_numpy(rows).to(self.device)

    def at_least(self, queries: torch.Tensor, least: torch.Tensor, block_rows: int) -> list[torch.Tensor]:
        """See `Product.at_least`. Where the last of as many rows as faiss gives has a smaller product, these are all there are;
        for the other queries alone there is a pass over the float32 rows."""
        deep = min(self.count, CUDA_K_MAX)
        products, rows = self.top(queries, deep, block_rows)
        within = products >= least[:, None]
        found = [its[reach].sort().values for its, reach in zip(rows, within, strict=True)]
        if deep == self.count:
            return found
        cut = within.all(dim=1).nonzero()[:, 0]
        if len(cut):
            passed = super().at_least(queries[cut], least[cut], block_rows)
            for position, its in zip(cut.tolist(), passed, strict=True):
                found[position] = its
        return found


class FaissEngine(ExactEngine):
    """`Engine` for flat indexes, by faiss."""

    name = "faiss"
    one_at_a_time = True


def cuda_parts(devices: Sequence[int], dim: int, temp_bytes: int) -> list[Any]:
    """An empty float16 index for inner products on each of these CUDA devices, with scratch memory of so many bytes.

    Raises `ConfigurationError` where the installed faiss has no GPU in it.
    """
    faiss = import_faiss_gpu()
    parts = []
    for device in devices:
        resources = faiss.StandardGpuResources()
        resources.setTempMemory(temp_bytes)
        config = faiss.GpuIndexFlatConfig()
        config.device, config.useFloat16 = device, True
        if hasattr(config, "use_cuvs"):
            config.use_cuvs = False
        part = faiss.GpuIndexFlatIP(resources, dim, config)
        part.referenced_objects = [resources]
        parts.append(part)
    return parts


def filled(parts: Sequence[Any], rows: torch.Tensor) -> Any:
    """The empty faiss indexes `parts` with `rows` float32 (count, dim) in them, each with as many as the next, as one index."""
    share = -(-len(rows) // len(parts))
    for number, part in enumerate(parts):
        part.add(rows[number * share : (number + 1) * share].numpy())
    if len(parts) == 1:
        return parts[0]
    faiss = import_faiss()
    whole = faiss.IndexShards(rows.shape[1], True, True)
    for part in parts:
        whole.add_shard(part)
    return whole
