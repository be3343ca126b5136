"""[GPU] Mapped arrays as tensors, without a copy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def tensor_of(rows: NDArray[Any]) -> torch.Tensor:
    """A tensor over the same memory, which must never be written to: it is mapped read-only. uint16 comes out as int16."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(rows.view(np.int16) if rows.dtype == np.uint16 else rows)
