"""`killed_build.py LEFT CORPUS OUT`: a build that kills itself at the step after LEFT others, in the middle of a write."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from hashing_encoder import HashingEncoder
from ragpool.index import build

STEPS = ("replace", "fsync", "fdatasync", "pwrite", "ftruncate", "truncate", "mkdir")
"""What a build does to the disk one call at a time."""


def dying(step: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            return step(*args, **kwargs)
        if step is pwrite:
            step(args[0], args[1][: len(args[1]) // 2], args[2])
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    return counted


if __name__ == "__main__":
    pwrite = os.pwrite
    remaining = [int(sys.argv[1])]
    for name in STEPS:
        setattr(os, name, dying(getattr(os, name), remaining))
    build._encoder = HashingEncoder  # type: ignore[assignment]
    build.build_index([sys.argv[2]], sys.argv[3])
    print(int(sys.argv[1]) - remaining[0])
