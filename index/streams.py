"""[GPU] A thread's own queue of work on its device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any


def own_stream(device: str) -> AbstractContextManager[Any]:
    """While it is entered, what this thread asks of a CUDA device waits for nothing that other threads asked; on cpu nothing."""
    if not device.startswith("cuda"):
        return nullcontext()
    import torch

    return torch.cuda.stream(torch.cuda.Stream(torch.device(device)))  # type: ignore[no-untyped-call]
