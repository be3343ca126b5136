"""The batches that this process runs now, kept in the progress buffer: the start of the oldest, and the ids of all of them.

From before a batch is tokenised until it is answered: whatever ends the process meanwhile, the post-mortem names all it may be.
What a batch took is without the time for which the I/O thread could not turn either (a signal stopped the process, or something
held the interpreter): else one such moment would make the supervisor patient with batches that hang.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..wire.progress import ProgressWriter

STILL_NS = 2_000_000_000
"""The I/O thread turns each second at least. Where it did not for longer than this, it was not let."""


class InFlight:
    """May be called from any thread; `progress` is written by whichever calls, one at a time. Times: ns of CLOCK_MONOTONIC."""

    def __init__(self, progress: ProgressWriter) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._started = 0
        self._batches: dict[int, tuple[int, int, Sequence[bytes]]] = {}
        self._turned_ns: int | None = None
        self._still_ns = 0

    def start(self, ids: Sequence[bytes], now_ns: int) -> int:
        """A batch with these request ids starts; what `end` wants to be told."""
        with self._lock:
            self._started += 1
            began_ns = max(now_ns, self._turned_ns or 0)  # the process may have been stopped on the way here
            self._batches[self._started] = (began_ns, self._still(began_ns), ids)
            self._stamp()
            return self._started

    def end(self, batch: int, now_ns: int) -> None:
        """It is answered. A batch that broke the device is never ended: its stamp stays."""
        with self._lock:
            started_ns, still_ns, _ = self._batches.pop(batch)
            self._progress.took(now_ns - started_ns - (self._still(now_ns) - still_ns))
            if self._batches:
                self._stamp()
            else:
                self._progress.clear()

    def turned(self, now_ns: int) -> None:
        """The I/O thread goes round."""
        with self._lock:
            self._still_ns = self._still(now_ns)
            self._turned_ns = now_ns

    def _still(self, now_ns: int) -> int:
        """For how long the process stood still in all, the gap included that may not have ended yet."""
        gap = now_ns - self._turned_ns if self._turned_ns is not None else 0
        return self._still_ns + (gap if gap > STILL_NS else 0)

    def _stamp(self) -> None:
        oldest = next(iter(self._batches.values()))[0]
        self._progress.start(oldest, [identity for _, _, ids in self._batches.values() for identity in ids])
