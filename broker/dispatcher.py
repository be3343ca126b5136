"""One round of handing out work: from the queue to workers, as the lineup says."""

from __future__ import annotations

from ..wire.messages import Request
from .commands import Dispatch
from .pending import Pending
from .registry import Registry
from .request_queue import RequestQueue
from .workers import Worker


def round_of(queue: RequestQueue, registry: Registry, now: float) -> list[Dispatch]:
    """Trials first, each alone on an idle worker; then each idle worker its share; then full batches behind running ones."""
    if not queue.count:
        return []
    lineup = registry.lineup
    handed: list[Dispatch] = []
    unable: list[Worker] = []
    while lineup.idle and (trial := queue.pop_trial()):
        handed += _hand_over_trial(registry, lineup.least_busy(sum(p.cost for p in trial)), trial, now)
    if lineup.idle and queue.ordinary:
        size = lineup.batch_size(queue.items, queue.cost, now)
        cost = queue.cost / queue.items * size
    while queue.ordinary:
        if lineup.idle:
            worker, most = lineup.least_busy(cost), size
        elif not queue.trials and (place := lineup.parking_place(queue.items, queue.cost, now)) is not None:
            worker, most = place, place.info.max_batch
        else:
            break
        more = _hand_over(queue, registry, worker, most, now)
        handed += more
        if not more:
            lineup.remove(worker)
            unable.append(worker)
    for worker in unable:
        lineup.place(worker, now)
    return handed


def _hand_over(queue: RequestQueue, registry: Registry, worker: Worker, size: int, now: float) -> list[Dispatch]:
    """The next requests that `worker` may take, `size` items of them or one batch at most, in one message."""
    taken: list[Pending] = []
    passed: list[Pending] = []
    items = 0
    while queue.ordinary and items < min(size, worker.info.max_batch):
        pending = queue.pop()
        if worker.peer in pending.running_on or registry.should_avoid(worker, pending, now):
            passed.append(pending)
            continue
        items += pending.request.items
        taken.append(pending)
    queue.push_front(passed)
    if not taken:
        return []
    registry.hand_over(worker, taken, now)
    return _messages(worker, taken, now)


def _hand_over_trial(registry: Registry, worker: Worker, trial: list[Pending], now: float) -> list[Dispatch]:
    for pending in trial:
        if len(trial) == 1:
            pending.solo_on = (*pending.solo_on, worker.info.incarnation)
    registry.hand_over(worker, trial, now, trial=True)
    return _messages(worker, trial, now)


def _messages(worker: Worker, pendings: list[Pending], now: float) -> list[Dispatch]:
    """As few messages as the worker can take."""
    most = worker.info.items_max
    requests = tuple(_as_of(pending, now) for pending in pendings)
    return [Dispatch(worker.peer, requests[start : start + most]) for start in range(0, len(requests), most)]


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
