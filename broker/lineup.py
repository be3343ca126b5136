"""The ready workers, in the order in which they are asked: idle ones by class of speed, busy ones by when they will be free.

Kept up to date one worker at a time, so that a decision costs the same with eight workers and with five hundred. Workers whose
speeds differ by less than `CLASS_WIDTH` are equals: among them the one that has been idle longest comes first.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict

from .states import READY
from .workers import BATCHES_MAX, Worker

CLASS_WIDTH = 0.05
SOON = 0.2
"""Of a batch time: whoever is free within it shares in what waits. A whole batch time makes shares so small that workers idle
(`benchmarks/scheduling.py`; chosen among 0.125, 0.2 and 0.25 on one seed)."""

FULL = 2.0
"""Batches for each idle worker from which on they are full ones: sharing a long queue makes small batches, and it longer.
At 1 the pool shares too late, above 2 too early (`benchmarks/scheduling.py`, two seeds)."""

OVERDUE = 1.0
"""Of a batch time: whoever should have been free so long ago stands still, as far as anybody can tell, and is not free soon."""

PARKING_WORTH = 0.01
"""Of a batch time: where the way there and back is less, parking hides nothing, and only binds work too early."""

COST_SHARE = 0.05
"""Weight of the newest batch in the usual cost, by which speeds are compared."""

_Busy = tuple[float, int, Worker]


def _free_at(entry: _Busy) -> float:
    return entry[0]


class Lineup:
    def __init__(self) -> None:
        self._classes: dict[int, OrderedDict[bytes, Worker]] = {}
        self._class_of: dict[bytes, int] = {}
        self._busy: list[_Busy] = []
        self._busy_at: dict[bytes, _Busy] = {}
        self._sequence = 0
        self._usual_cost = 0.0

    @property
    def idle(self) -> int:
        """How many ready workers have nothing running."""
        return len(self._class_of)

    def usual(self, cost: float) -> None:
        """A batch of this cost was handed out."""
        self._usual_cost += COST_SHARE * (cost - self._usual_cost) if self._usual_cost else cost

    def place(self, worker: Worker, now: float) -> None:
        """Where `worker` belongs by its state and what it holds now; one that runs suspects, or is not ready, is not asked."""
        self.remove(worker)
        if worker.state.name != READY or worker.on_trial:
            return
        if worker.batches:
            self._sequence += 1
            entry = (worker.finish_at(now), self._sequence, worker)
            insort(self._busy, entry)
            self._busy_at[worker.peer] = entry
        else:
            speed = self._class(worker)
            self._classes.setdefault(speed, OrderedDict())[worker.peer] = worker
            self._class_of[worker.peer] = speed

    def remove(self, worker: Worker) -> None:
        """It is asked no more."""
        speed = self._class_of.pop(worker.peer, None)
        if speed is not None:
            del self._classes[speed][worker.peer]
            if not self._classes[speed]:
                del self._classes[speed]
        entry = self._busy_at.pop(worker.peer, None)
        if entry is not None:
            del self._busy[bisect_right(self._busy, entry) - 1]

    def least_busy(self, cost: float) -> Worker:
        """The idle worker that would finish `cost` soonest, the longest idle of its class. There must be one."""
        heads = (next(iter(members.values())) for members in self._classes.values())
        return min(heads, key=lambda worker: worker.fit.predict(cost))

    def free_by(self, when: float, since: float = -math.inf) -> int:
        """How many busy workers will have done all they hold by `when`, but should not have before `since`."""
        return bisect_right(self._busy, when, key=_free_at) - bisect_left(self._busy, since, key=_free_at)

    def batch_size(self, items: int, cost: float, now: float) -> int:
        """Items for each idle worker, so that what waits is shared with all that are free now, or soon.

        `items` and `cost` are the totals that wait. A burst of 10 on 2 idle workers is 5 for each, not 1, 1 and 8. A queue of
        `FULL` batches for each is not shared: they are full.
        """
        share = math.ceil(items / self.idle)
        best = self.least_busy(cost / items * share)
        if share >= FULL * best.info.max_batch:
            return best.info.max_batch
        batch_s = best.fit.predict(cost / items * min(share, best.info.max_batch))
        return math.ceil(items / (self.idle + self.free_by(now + SOON * batch_s, now - OVERDUE * batch_s)))

    def parking_place(self, items: int, cost: float, now: float) -> Worker | None:
        """Where a full batch may wait behind a running one: on the worker that is free soonest, if it has room for it.

        None while some worker is idle, where there is no full batch for each that is free about as soon, and where the way to
        the worker is so short that waiting in the queue costs nothing. `items` and `cost` are the totals that wait.
        """
        if self.idle or not self._busy:
            return None
        free_at, _, soonest = self._busy[0]
        most = soonest.info.max_batch
        if items < most or len(soonest.batches) >= BATCHES_MAX:
            return None
        batch_s = soonest.fit.predict(cost / items * most)
        if soonest.away_s is not None and soonest.away_s < PARKING_WORTH * batch_s:
            return None
        return soonest if items >= most * self.free_by(max(now, free_at) + SOON * batch_s) else None

    def stands(self, worker: Worker) -> str:
        """Where it is: "idle", "busy", or "" where it is not asked."""
        idle, busy = worker.peer in self._class_of, worker.peer in self._busy_at
        if idle and self._classes[self._class_of[worker.peer]].get(worker.peer) is not worker:
            raise RuntimeError(f"worker {worker.info.incarnation} stands in a class that does not know it")
        if busy and self._busy_at[worker.peer] not in self._busy:
            raise RuntimeError(f"worker {worker.info.incarnation} is missing among the busy")
        return "idle" if idle else "busy" if busy else ""

    def _class(self, worker: Worker) -> int:
        seconds = worker.fit.predict(self._usual_cost)
        return round(math.log(seconds) / CLASS_WIDTH) if seconds > 0.0 else -(1 << 30)
