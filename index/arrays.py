"""[GPU] Mapped arrays as tensors, without a copy; and copies of them on a device."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

COPIED_ROWS = 1 << 16
"""Rows that are copied to a device at a time."""


def tensor_of(rows: NDArray[Any]) -> torch.Tensor:
    """A tensor over the same memory, which must never be written to: it is mapped read-only. uint16 comes out as int16."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(rows.view(np.int16) if rows.dtype == np.uint16 else rows)


def copied(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`rows` (count, dim) on `device`, block by block, so that nothing else of their size is ever held."""
    there = torch.empty(rows.shape, dtype=rows.dtype, device=device)
    for first in range(0, len(rows), COPIED_ROWS):
        there[first : first + COPIED_ROWS].copy_(rows[first : first + COPIED_ROWS])
    return there
