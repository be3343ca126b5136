"""The rows of a flat index: float32 for scores, and half-precision copies to scan, both raw and row after row.

Files of version V: `vectors-V.f32` and `vectors-V.bf16`. The half precision is bfloat16: it has float32's range, so that rows of
any norm survive the cast, CPUs multiply it natively where they know no float16, and GPUs are as fast with it. Its coarser
rounding costs candidates, never answers: the error norms measured here go into the manifest, and by them the engine certifies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .manifest import HalfNorms
from .sealed import SealedWriter

FULL = "f32"
HALF = "bf16"
HALF_DTYPE = "bfloat16"

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


class VectorWriter:
    """New files `f32` and `bf16` in `folder`: any number of `append`."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.full = SealedWriter(folder / FULL)
        self.half = SealedWriter(folder / HALF)
        self.dim = dim
        self.count = 0
        self._half_max = self._error_max = self._full_max = 0.0

    def append(self, rows: NDArray[np.float32]) -> None:
        """Adds rows, float32 (n, dim), all finite."""
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"rows of {self.dim} values are wanted, not an array of shape {rows.shape}")
        full = np.ascontiguousarray(rows, dtype="<f4")
        half = to_bfloat16(full)
        exact, rounded = full.astype(np.float64), from_bfloat16(half).astype(np.float64)
        if not np.isfinite(rounded).all():
            raise ValueError("a vector has values that are not finite")
        self.full.write(full)
        self.half.write(half)
        self.count += len(full)
        self._half_max = max(self._half_max, _largest_norm(rounded))
        self._error_max = max(self._error_max, _largest_norm(exact - rounded))
        self._full_max = max(self._full_max, _largest_norm(exact))

    def norms(self) -> HalfNorms:
        """Bounds over all rows so far."""
        return HalfNorms(
            dtype=HALF_DTYPE,
            half_max=self._half_max * _ROUNDED_UP,
            error_max=self._error_max * _ROUNDED_UP,
            full_max=self._full_max * _ROUNDED_UP,
        )

    def writers(self) -> dict[str, SealedWriter]:
        return {FULL: self.full, HALF: self.half}


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
