"""`killed_build.py WHEN CORPUS OUT TYPE`: a build that kills itself, in the middle of a write. WHEN: `12`, at the step after 12
others; `taken:1`, at the second one of that name. One that ends says how many steps it had. A compact one keeps to one thread."""

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

FAISS_STEPS = ("taken", "_block")
"""What reads rows to train a rotation, then lists, then codes; and to fill the lists, in two rounds."""


class Steps:
    """Counts them, and kills the process when it is time."""

    def __init__(self, when: str) -> None:
        self._name, _, left = when.rpartition(":")
        self._left = int(left)
        self.done = 0

    def watch(self, where: Any, name: str, half: Callable[..., object] | None = None) -> None:
        """Has each call of `where.name` be a step; killed there it has done `half`."""
        step = getattr(where, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._name in ("", name):
                self._left -= 1
                if self._left < 0:
                    if half is not None:
                        half(step, *args)
                    os.kill(os.getpid(), signal.SIGKILL)
            self.done += 1
            return step(*args, **kwargs)

        setattr(where, name, counted)


def half_of_the_bytes(pwrite: Callable[..., int], descriptor: int, data: bytes, offset: int) -> None:
    pwrite(descriptor, data[: len(data) // 2], offset)


def half_of_the_file(write_index: Callable[..., None], index: object, path: str) -> None:
    write_index(index, path)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def watch_faiss(steps: Steps) -> None:
    from ragpool.index import faiss_fill, faiss_part
    from ragpool.index.faiss_files import import_faiss

    for name in FAISS_STEPS:
        steps.watch(faiss_fill, name)
    steps.watch(import_faiss(), "write_index", half_of_the_file)
    faiss_part._MEASURED_S = 0.0
    build.usable_cores = lambda: 1  # type: ignore[assignment]


if __name__ == "__main__":
    when, corpus, out, type_ = sys.argv[1:]
    steps = Steps(when)
    for name in STEPS:
        steps.watch(os, name, half_of_the_bytes if name == "pwrite" else None)
    if type_ != "flat":
        watch_faiss(steps)
    build._encoder = HashingEncoder  # type: ignore[assignment]
    build.build_index([corpus], out, build.BuildOptions(type=type_, bytes_per_vector=8))
    print(steps.done)
