"""One round of handing out work: from the queue to workers, as the scheduler says."""

from __future__ import annotations

from ..wire.messages import Request
from . import scheduler
from .commands import Dispatch
from .pending import Pending
from .registry import Registry
from .request_queue import RequestQueue
from .workers import Worker


def round_of(queue: RequestQueue, registry: Registry, now: float) -> list[Dispatch]:
    """Trials first, each alone on an idle worker; then each idle worker its share; then full batches behind running ones."""
    if not len(queue):
        return []
    ready = registry.ready()
    idle = [worker for worker in ready if not worker.batches]
    handed = []
    while idle and (trial := queue.pop_trial()):
        handed.append(_hand_over_trial(registry, scheduler.least_busy(idle, sum(p.cost for p in trial)), trial, now))
        idle = [worker for worker in idle if not worker.batches]
    shared = len(ready) > 1
    if idle and queue.ordinary:
        size = scheduler.batch_size(queue.items, queue.cost, ready, now)
        cost = queue.cost / queue.items * size
        while idle and queue.ordinary:
            worker = scheduler.least_busy(idle, cost)
            idle.remove(worker)
            handed += _hand_over(queue, registry, worker, size, now, shared)
    while queue.ordinary:
        place = scheduler.parking_place(queue.items, ready, now)
        more = _hand_over(queue, registry, place, place.info.max_batch, now, shared) if place is not None else []
        if not more:
            break
        handed += more
    return handed


def _hand_over(queue: RequestQueue, registry: Registry, worker: Worker, size: int, now: float, shared: bool) -> list[Dispatch]:
    """The next requests that `worker` may take, `size` items of them or one batch at most, in one message."""
    taken: list[Pending] = []
    passed: list[Pending] = []
    items = 0
    while queue.ordinary and items < min(size, worker.info.max_batch):
        pending = queue.pop()
        if worker.peer in pending.running_on or (shared and worker.info.incarnation in pending.avoid):
            passed.append(pending)
            continue
        items += pending.request.items
        pending.solo = False
        taken.append(pending)
    queue.push_front(passed)
    if not taken:
        return []
    registry.hand_over(worker, taken, now)
    return [Dispatch(worker.peer, tuple(_as_of(pending, now) for pending in taken))]


def _hand_over_trial(registry: Registry, worker: Worker, trial: list[Pending], now: float) -> Dispatch:
    for pending in trial:
        pending.solo = len(trial) == 1
    registry.hand_over(worker, trial, now, trial=True)
    return Dispatch(worker.peer, tuple(_as_of(pending, now) for pending in trial))


def _as_of(pending: Pending, now: float) -> Request:
    """The request as it is sent on: with the time that is left now."""
    request = pending.request
    return Request(
        id=request.id,
        op=request.op,
        items=request.items,
        top_k=request.top_k,
        remaining_ms=max(1, round((pending.deadline - now) * 1e3)),
        priority=request.priority,
        collection=request.collection,
        body=request.body,
    )
