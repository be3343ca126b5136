"""[GPU] faiss as a finder of candidates over the mapped float32 rows; scored and certified like those of the `exact` engine."""

from __future__ import annotations

from typing import Any

import torch

from .arrays import tensor_of
from .errors import ConfigurationError, DeviceUnavailable
from .exact import ExactEngine
from .manifest import HalfNorms
from .product import Product
from .store import Index


class FaissProduct(Product):
    """Float32 products by faiss' brute-force search, which copies no rows."""

    def __init__(self, faiss: Any, matrix: torch.Tensor, norms: HalfNorms) -> None:
        super().__init__(matrix, norms)
        self._faiss = faiss

    def top(self, queries: torch.Tensor, c: int, block_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        products, rows = self._faiss.knn(queries.numpy(), self.matrix.numpy(), c, metric=self._faiss.METRIC_INNER_PRODUCT)
        return torch.from_numpy(products).double(), torch.from_numpy(rows)


class FaissEngine(ExactEngine):
    """`Engine` by faiss, on the CPU."""

    name = "faiss"


def load_faiss(index: Index, device: str) -> FaissEngine:
    """Raises `ConfigurationError` where faiss is not installed, `DeviceUnavailable` for a device that is not cpu."""
    if device not in ("cpu", "auto"):
        raise DeviceUnavailable(f"the engine faiss searches on cpu, not on {device}: use the engine exact")
    try:
        import faiss
    except ImportError:
        raise ConfigurationError("the engine faiss needs the package faiss-cpu: pip install 'ragpool[cpu]'") from None
    full = tensor_of(index.vectors.full)
    norms = index.manifest.norms
    return FaissEngine(full, FaissProduct(faiss, full, norms), norms)
