"""Whose work is to be run once more elsewhere, before anybody knows whether its worker is dead. The first answer wins."""

from __future__ import annotations

from collections import deque

from .states import READY, SUSPECT
from .workers import Worker

SHARE_MAX = 0.05
"""Extra work at most, as a share of all items handed out."""

ALLOWANCE_FIRST = 16.0
ALLOWANCE_MAX = 256.0
OVERDUE_MIN_S = 1.0
OVERDUE_FACTOR = 5.0
RECENT = 256


class Hedging:
    """The allowance for extra work, and how long batches usually take."""

    def __init__(self) -> None:
        self._allowance = ALLOWANCE_FIRST
        self._batches_s: deque[float] = deque(maxlen=RECENT)

    def handed_out(self, items: int) -> None:
        """Ordinary work earns allowance."""
        self._allowance = min(ALLOWANCE_MAX, self._allowance + SHARE_MAX * items)

    def took(self, batch_s: float) -> None:
        self._batches_s.append(batch_s)

    def spend(self, items: int) -> bool:
        """Whether `items` more may be run twice; if so they are paid for."""
        if items > self._allowance:
            return False
        self._allowance -= items
        return True

    def overdue_after_s(self) -> float:
        """A batch that runs longer than this is hedged: max(1 s, 5 x p99 of recent batches)."""
        ranked = sorted(self._batches_s)
        p99 = ranked[min(len(ranked) - 1, int(0.99 * len(ranked)))] if ranked else 0.0
        return max(OVERDUE_MIN_S, OVERDUE_FACTOR * p99)

    def is_due(self, worker: Worker, overdue_after_s: float, now: float) -> bool:
        """A suspect's work, and that of a worker whose batch is overdue; trials never."""
        if not worker.batches or worker.on_trial:
            return False
        return worker.state.name == SUSPECT or (worker.state.name == READY and worker.running_s(now) > overdue_after_s)
