"""Who gets how much: small pure functions over the workers that may get work.

The least busy worker is, among those with nothing running, the one that would finish soonest; only when none is idle are busy
ones compared. Work is bound late, so these always see exact counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .workers import BATCHES_MAX, Worker


def least_busy(idle: Sequence[Worker], cost: float) -> Worker:
    """The idle worker that would finish `cost` soonest; among equals the one that waited longest (they come in that order)."""
    return min(idle, key=lambda worker: worker.fit.predict(cost))


def batch_size(items: int, cost: float, ready: Sequence[Worker], now: float) -> int:
    """Items for each idle worker, so that what waits is shared with all that are free now or within one batch time.

    `items` and `cost` are the totals that wait. A burst of 10 on 2 idle workers is 5 for each, not 1, 1 and 8.
    """
    idle = [worker for worker in ready if not worker.batches]
    share = math.ceil(items / len(idle))
    batch_s = max(worker.fit.predict(cost / items * min(share, worker.info.max_batch)) for worker in idle)
    soon = sum(1 for worker in ready if worker.batches and worker.finish_at(now) <= now + batch_s)
    return math.ceil(items / (len(idle) + soon))


def parking_place(items: int, ready: Sequence[Worker], now: float) -> Worker | None:
    """Where a full batch may wait behind a running one: on the worker that is free soonest, if it has room for it."""
    open_to_all = [worker for worker in ready if not worker.on_trial]
    if not open_to_all:
        return None
    soonest = min(open_to_all, key=lambda worker: worker.finish_at(now))
    full = items >= soonest.info.max_batch
    return soonest if full and len(soonest.batches) < BATCHES_MAX else None
