"""[GPU] Puts a flat index where it is to be searched. Which engine, and what fits, `engine` and `placement` decide.

On the CPU nothing is copied. A CUDA device gets the half-precision rows, and the float32 rows too where every worker that shares
the device has room for its own (otherwise candidates are scored from the mapped ones). What does not fit is refused before
anything is copied, and so is a device whose products are not what the engine relies on.
"""

from __future__ import annotations

import torch

from .arrays import copied, tensor_of
from .devices import bind, memory_of, resolve_device
from .engine import FAISS, flat_engine
from .errors import DeviceUnavailable
from .exact import ExactEngine, engine_on_cpu
from .faiss_files import reason
from .flat_faiss import FaissEngine, FaissProduct, HalfFaissProduct, cuda_parts, filled
from .placement import TEMP_BYTES, check_memory, check_room, flat_bytes, memory_limit, putting_failed, spanned, takes_full
from .product import Product
from .selection import keeps_bound, spread
from .store import Index

_CHECKED_ROWS = 16
"""Rows that are looked for once, when everything is in place."""


def load_flat(index: Index, device: str, engine: str, gpus: int, sharing: int, fastest: str) -> ExactEngine:
    """The engine for a flat `index`; arguments and errors as those of `load_engine`."""
    where = resolve_device(device)
    bind(where)
    return _on_cpu(index, engine) if where.type == "cpu" else _on_cuda(index, where, engine, gpus, sharing, fastest)


def _on_cpu(index: Index, engine: str) -> ExactEngine:
    norms, values = index.manifest.norms, index.count * index.dim
    if engine != FAISS:
        check_memory(str(index.path), "its bfloat16 rows", 2 * values, memory_limit())
        return engine_on_cpu(index.vectors.full, index.vectors.half, norms)
    check_memory(str(index.path), "its float32 rows", 4 * values, memory_limit())
    full = tensor_of(index.vectors.full)
    return FaissEngine(full, FaissProduct(full, norms), norms)


def _on_cuda(index: Index, where: torch.device, engine: str, gpus: int, sharing: int, fastest: str) -> ExactEngine:
    norms, full = index.manifest.norms, tensor_of(index.vectors.full)
    by_faiss = flat_engine(engine, fastest, gpus, norms.full_max) == FAISS
    numbers = spanned(str(where), gpus, torch.cuda.device_count())
    half = flat_bytes(index.count, index.dim, len(numbers), by_faiss)
    for number in numbers:
        check_room(str(index.path), half, memory_of(number), "build --type compact")
    if by_faiss:
        product: Product = _by_faiss(index, full, where, numbers)
    else:
        product = Product(copied(tensor_of(index.vectors.half).view(torch.bfloat16), where), norms)
    if takes_full(half, full.numel() * full.element_size(), sharing, memory_of(numbers[0])):
        full = copied(full, where)
        if by_faiss:
            product.matrix = full
    if not keeps_bound(product, full, spread(index.count, _CHECKED_ROWS)):
        raise DeviceUnavailable(
            f"the products of {where} with rows of the index {index.path} are less precise than the engine "
            f"{'faiss' if by_faiss else 'exact'} relies on: choose the other one (index.engine), or keep the index off the "
            f"device (index.gpu = false)"
        )
    return (FaissEngine if by_faiss else ExactEngine)(full, product, norms)


def _by_faiss(index: Index, full: torch.Tensor, where: torch.device, numbers: tuple[int, ...]) -> HalfFaissProduct:
    try:
        part = filled(cuda_parts(numbers, index.dim, TEMP_BYTES), full)
    except RuntimeError as error:
        raise putting_failed(str(index.path), str(where), reason(error)) from None
    return HalfFaissProduct(part, full, index.manifest.norms, where)
