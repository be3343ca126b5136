"""The batches that this process runs now, kept in the progress buffer: the start of the oldest, and the ids of all of them.

From before a batch is tokenised until it is answered: whatever ends the process meanwhile, the post-mortem names all it may be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from ..wire.progress import ProgressWriter


class InFlight:
    """`start` and `end` may be called from any thread; `progress` is written by whichever calls, one at a time."""

    def __init__(self, progress: ProgressWriter) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._started = 0
        self._batches: dict[int, tuple[int, Sequence[bytes]]] = {}

    def start(self, ids: Sequence[bytes]) -> int:
        """A batch with these request ids starts; what `end` wants to be told."""
        with self._lock:
            self._started += 1
            self._batches[self._started] = (time.monotonic_ns(), ids)
            self._stamp()
            return self._started

    def end(self, batch: int) -> None:
        """It is answered. A batch that broke the device is never ended: its stamp stays."""
        with self._lock:
            started_ns, _ = self._batches.pop(batch)
            self._progress.took(time.monotonic_ns() - started_ns)
            if self._batches:
                self._stamp()
            else:
                self._progress.clear()

    def _stamp(self) -> None:
        oldest = next(iter(self._batches.values()))[0]
        self._progress.start(oldest, [identity for _, ids in self._batches.values() for identity in ids])
