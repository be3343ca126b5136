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
    """Give each idle worker its share, then park full batches behind running ones. What nobody may take stays in the queue."""
    if not len(queue):
        return []
    ready = registry.ready()
    handed = []
    idle = [worker for worker in ready if not worker.batches]
    if idle:
        size = scheduler.batch_size(queue.items, queue.cost, ready, now)
        cost = queue.cost / queue.items * size
        while idle and len(queue):
            worker = scheduler.least_busy(idle, cost)
            idle.remove(worker)
            handed.append(_hand_over(queue, registry, worker, size, now))
    while len(queue):
        place = scheduler.parking_place(queue.items, ready, now)
        if place is None:
            break
        handed.append(_hand_over(queue, registry, place, place.info.max_batch, now))
    return handed


def _hand_over(queue: RequestQueue, registry: Registry, worker: Worker, size: int, now: float) -> Dispatch:
    """The next requests, `size` items of them or one batch at most, in one message."""
    taken: list[Pending] = []
    items = 0
    while len(queue) and items < min(size, worker.info.max_batch):
        pending = queue.pop()
        items += pending.request.items
        taken.append(pending)
    registry.hand_over(worker, taken, now)
    return Dispatch(worker.peer, tuple(_as_of(pending, now) for pending in taken))


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
