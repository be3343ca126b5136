"""The rows of a flat index: float32 for scores, and half-precision copies to scan, both raw and row after row.

Files of version V: `vectors-V.f32` and `vectors-V.bf16`. The half precision is bfloat16: it has float32's range, so that rows of
any norm survive the cast, CPUs multiply it natively where they know no float16, and GPUs are as fast with it. Its coarser
rounding costs candidates, never answers: the error norms measured here go into the manifest, and by them the engine certifies.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ModelUnusable
from .manifest import HalfNorms

FULL = "f32"
HALF = "bf16"
HALF_DTYPE = "bfloat16"
PART = "faiss"
REFINE = "f16"
REFINE_DTYPE = "float16"

_BLOCK_BYTES = 1 << 20
_TAKEN_ROWS = 1_024

_ROUNDED_UP = 1.0 + 1e-9
"""The norms are computed in float64 and stand for upper bounds."""


def to_bfloat16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Finite float32 values as bfloat16 bits, rounded to nearest, ties to even."""
    bits: NDArray[np.uint32] = rows.view(np.uint32)
    last_kept = (bits >> np.uint32(16)) & np.uint32(1)
    rounded: NDArray[np.uint16] = ((bits + np.uint32(0x7FFF) + last_kept) >> np.uint32(16)).astype("<u2")
    return rounded


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 values that bfloat16 bits stand for, exactly."""
    values: NDArray[np.float32] = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values


class EncodedRows:
    """The file of encoded rows of a build: raw float32 (count, dim), without a trailer yet."""

    def __init__(self, path: Path, count: int, dim: int) -> None:
        self.path = path
        self.count = count
        self.dim = dim

    def map(self) -> np.memmap[tuple[int, int], np.dtype[np.float32]]:
        """All rows, mapped, read-only: what is touched counts as this process's memory until the map goes."""
        return np.memmap(self.path, dtype="<f4", mode="r", shape=(self.count, self.dim))

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All rows in their order, a few megabytes at a time."""
        step = max(1, _BLOCK_BYTES // (4 * self.dim))
        with open(self.path, "rb") as file:
            for first in range(0, self.count, step):
                rows = min(step, self.count - first)
                yield np.fromfile(file, dtype="<f4", count=rows * self.dim).reshape(rows, self.dim)


def let_go(rows: NDArray[np.float32]) -> None:
    """The pages of mapped `rows` that were touched are this process's memory no longer, and come back when touched again."""
    held = getattr(rows, "_mmap", None)
    if isinstance(held, mmap.mmap):
        held.madvise(mmap.MADV_DONTNEED)


def taken(rows: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """A copy of the rows at `positions`: the system maps many pages around each that is touched, and they are let go."""
    found = np.empty((len(positions), rows.shape[1]), dtype=np.float32)
    for first in range(0, len(positions), _TAKEN_ROWS):
        found[first : first + _TAKEN_ROWS] = rows[positions[first : first + _TAKEN_ROWS]]
        let_go(rows)
    return found


def write_rounded(rows: EncodedRows, path: Path, dtype: str) -> HalfNorms:
    """Writes `rows` as `dtype`, HALF_DTYPE or REFINE_DTYPE, holds them to `path`; bounds of their norms, over all of them.

    Raises `ModelUnusable` for a value beyond `dtype`."""
    half_max = error_max = full_max = 0.0
    with open(path, "wb") as file:
        for full in rows.blocks():
            half, held = _ROUNDED[dtype](full)
            exact, rounded = full.astype(np.float64), held.astype(np.float64)
            if not np.isfinite(rounded).all():
                choice = ": build --type flat" if dtype == REFINE_DTYPE else ""
                raise ModelUnusable(f"the model gives values that {dtype} cannot hold{choice}")
            file.write(half.tobytes())
            half_max = max(half_max, _largest_norm(rounded))
            error_max = max(error_max, _largest_norm(exact - rounded))
            full_max = max(full_max, _largest_norm(exact))
    return HalfNorms(dtype, half_max * _ROUNDED_UP, error_max * _ROUNDED_UP, full_max * _ROUNDED_UP)


def _bfloat16(full: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    bits = to_bfloat16(full)
    return bits, from_bfloat16(bits)


def _float16(full: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    with np.errstate(over="ignore"):
        half = full.astype("<f2")
    return half, half


_ROUNDED = {HALF_DTYPE: _bfloat16, REFINE_DTYPE: _float16}
"""(what is written, the values it stands for) of float32 rows."""


class VectorRows:
    """Mapped rows: `full` float32 (count, dim), `half` bfloat16 bits as uint16 (count, dim). Neither can be written to."""

    __slots__ = ("count", "dim", "full", "half")

    def __init__(self, full: NDArray[np.uint8], half: NDArray[np.uint8], count: int, dim: int) -> None:
        self.full: NDArray[np.float32] = full.view("<f4").reshape(count, dim)
        self.half: NDArray[np.uint16] = half.view("<u2").reshape(count, dim)
        self.count = count
        self.dim = dim


def _largest_norm(rows: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.einsum("ij,ij->i", rows, rows).max(initial=0.0)))
