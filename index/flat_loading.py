"""[GPU] Puts a flat index where it is to be searched, with the product that finds candidates fastest there.

On the CPU nothing is copied. A CUDA device gets the half-precision rows, and the float32 rows too where they fit (otherwise
candidates are scored from the mapped ones). What does not fit is refused before anything is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from .arrays import tensor_of
from .devices import bind, free_bytes, resolve_device
from .errors import ConfigurationError, DeviceUnavailable
from .exact import ExactEngine, engine_on_cpu
from .faiss_files import reason
from .flat_faiss import NORM_MAX, FaissEngine, FaissProduct, HalfFaissProduct, cuda_parts, filled
from .index_types import size
from .placement import TEMP_BYTES, WORKSPACE_BYTES, spanned
from .product import Product
from .selection import fastest_top
from .store import Index

SAMPLE_ROWS = 1 << 18
"""Rows over which the products of a device are measured: enough that it is busy, and at once copied."""

_COPY_ROWS = 1 << 16

log = logging.getLogger(__name__)


def load_flat(index: Index, device: str, by_faiss: bool | None = None, gpus: int = 1) -> ExactEngine:
    """The engine for a flat `index`: `exact`, or faiss where `by_faiss`; None takes whichever is faster on a CUDA device, and
    `exact` on the CPU. Over several devices only faiss spreads rows.

    Raises `DeviceUnavailable` where there is no such device or the rows do not fit, `ConfigurationError` where faiss is missing.
    """
    where = resolve_device(device)
    bind(where)
    norms = index.manifest.norms
    if where.type == "cpu":
        if not by_faiss:
            return engine_on_cpu(index.vectors.full, index.vectors.half, norms)
        full = tensor_of(index.vectors.full)
        return FaissEngine(full, FaissProduct(full, norms), norms)
    if gpus > 1 and by_faiss is False:
        raise ConfigurationError("the engine exact stands on 1 device: use the engine faiss, or index.gpus_per_worker = 1")
    return _on_cuda(index, where, gpus, True if gpus > 1 else by_faiss)


def _on_cuda(index: Index, where: torch.device, gpus: int, by_faiss: bool | None) -> ExactEngine:
    norms, full = index.manifest.norms, tensor_of(index.vectors.full)
    half = tensor_of(index.vectors.half).view(torch.bfloat16)
    numbers = spanned(str(where), gpus, torch.cuda.device_count())
    room = _room(index, numbers)

    def exact(count: int) -> Product:
        return Product(_copied(half[:count], where), norms)

    def faiss(count: int) -> Product:
        if norms.full_max > NORM_MAX:
            raise ConfigurationError(f"rows of the index {index.path} are too long for faiss' float16: use the engine exact")
        try:
            part = filled(cuda_parts(numbers, index.dim, TEMP_BYTES), full[:count])
        except RuntimeError as error:
            raise DeviceUnavailable(f"faiss cannot put the index {index.path} on {where}: {reason(error)}") from None
        return HalfFaissProduct(part, full[:count], norms, where)

    if by_faiss is None:
        by_faiss = _is_faiss_faster(exact, faiss, full)
    product = faiss(index.count) if by_faiss else exact(index.count)
    if full.numel() * full.element_size() <= room:
        full = _copied(full, where)
        if by_faiss:
            product.matrix = full
    return (FaissEngine if by_faiss else ExactEngine)(full, product, norms)


def _is_faiss_faster(exact: Callable[[int], Product], faiss: Callable[[int], Product], full: torch.Tensor) -> bool:
    """Measured on the first rows; False where faiss cannot do it at all."""
    sample = full[:SAMPLE_ROWS]
    try:
        fastest, seconds = fastest_top([lambda: exact(len(sample)), lambda: faiss(len(sample))], sample)
    except (ConfigurationError, RuntimeError) as error:
        log.info("the engine is exact: %s", reason(error))
        return False
    log.info("candidates of a batch among %d rows: exact %.2f ms, faiss %.2f ms", len(sample), *(1e3 * took for took in seconds))
    return fastest == 1


def _room(index: Index, numbers: tuple[int, ...]) -> int:
    """Bytes left on the first of these CUDA devices beside the half-precision rows, of which each holds as many as the next.

    Raises `DeviceUnavailable` where they do not fit one of them.
    """
    need = 2 * index.count * index.dim // len(numbers)
    rooms = []
    for number in numbers:
        free, total = free_bytes(torch.device("cuda", number))
        room = max(0, free - TEMP_BYTES - WORKSPACE_BYTES)
        if need > room:
            raise DeviceUnavailable(
                f"the index {index.path} does not fit cuda:{number}: its rows need {size(need)}, and {size(room)} of "
                f"{size(total)} are free for them; use a larger device, spread it over more (index.gpus_per_worker), build "
                f"--type compact, or keep the index off the device (index.gpu = false)"
            )
        rooms.append(room - need)
    return rooms[0]


def _copied(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`rows` on `device`, block by block, so that nothing else of their size is ever held."""
    copied = torch.empty(rows.shape, dtype=rows.dtype, device=device)
    for first in range(0, len(rows), _COPY_ROWS):
        copied[first : first + _COPY_ROWS].copy_(rows[first : first + _COPY_ROWS])
    return copied
