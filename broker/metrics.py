"""Counts and recent latencies, kept cheap: a few additions a request, percentiles only when somebody asks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ..wire.errors import ERRORS, RemoteFailure

RECENT = 512
QPS_WINDOW_S = 10


@dataclass(slots=True)
class Totals:
    """Since this broker started. `errors` by code; `late_replies` counts duplicates too."""

    requests: int = 0
    replies: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    hedges: int = 0
    late_replies: int = 0
    expired: int = 0
    cancelled: int = 0

    def failed(self, code: str) -> None:
        """A code that nobody knows counts as what the client makes of it, so that no worker grows this by inventing codes."""
        known = code if code in ERRORS else RemoteFailure.code
        self.errors[known] = self.errors.get(known, 0) + 1


class WorkerMetrics:
    """`batch_mean` counts items a message; latencies are milliseconds from dispatch to reply, the last `RECENT` of them."""

    __slots__ = ("_batches", "_items", "_latencies", "_seconds", "served")

    def __init__(self) -> None:
        self.served = 0
        self._items = 0
        self._batches = 0
        self._latencies: deque[float] = deque(maxlen=RECENT)
        self._seconds: deque[tuple[int, int]] = deque(maxlen=QPS_WINDOW_S + 1)

    def sent(self, items: int) -> None:
        self._items += items
        self._batches += 1

    def replied(self, latency_ms: float, items: int, now: float) -> None:
        self.served += items
        self._latencies.append(latency_ms)
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + items)
        else:
            self._seconds.append((second, items))

    @property
    def batch_mean(self) -> float:
        return self._items / self._batches if self._batches else 0.0

    def percentile_ms(self, share: float) -> float:
        """The nearest-rank percentile of recent latencies; 0 without any."""
        ranked = sorted(self._latencies)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0

    def qps(self, now: float) -> float:
        """Items a second over the last whole seconds of the window."""
        second = int(now)
        return sum(n for at, n in self._seconds if second - QPS_WINDOW_S <= at < second) / QPS_WINDOW_S
