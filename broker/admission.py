"""May this request in? One small function says no, with the reason, or nothing. The body is never opened."""

from __future__ import annotations

from ..wire.errors import BadRequest, NoWorkers, Overloaded, RagpoolError, TooLarge
from ..wire.messages import SEARCH, SEARCH_VECTOR, WORKER_OPS, Limits, Request
from ..wire.record import record
from .request_queue import RequestQueue

PRIORITY_MAX = 100
REMAINING_MAX_MS = 24 * 3600 * 1000
RETRY_AFTER_MIN_S = 0.05
RETRY_AFTER_MAX_S = 5.0
NEEDS_TOP_K = frozenset({SEARCH, SEARCH_VECTOR})


@record
class Load:
    """What the pool has to do and can do, at this moment. `rate` is cost a second, 0 while nothing was measured."""

    queued: int
    queued_bytes: int
    queued_cost: float
    rate: float
    draining: bool
    capacity_at: float | None
    client_pending: int

    @classmethod
    def of(cls, queue: RequestQueue, rate: float, draining: bool, capacity_at: float | None, client_pending: int) -> Load:
        return cls(queue.count, queue.bytes, queue.cost, rate, draining, capacity_at, client_pending)

    @property
    def wait_s(self) -> float:
        """How long a request that comes now waits, as far as was measured."""
        return self.queued_cost / self.rate if self.rate > 0.0 else 0.0


@record
class Bounds:
    limits: Limits = Limits()
    queue_max: int = 4096
    queue_max_bytes: int = 256 * 1024 * 1024
    window: int = 1024


def refusal(request: Request, collections: frozenset[str], bounds: Bounds, load: Load, now: float) -> RagpoolError | None:
    """Why `request` is not admitted, or None."""
    return malformed(request, collections, bounds.limits) or _no_room(request, bounds, load, now)


def malformed(request: Request, collections: frozenset[str], limits: Limits) -> RagpoolError | None:
    """What is wrong with the request itself."""
    if request.op not in WORKER_OPS:
        return BadRequest(f"unknown operation {request.op!r}; there is: {', '.join(sorted(WORKER_OPS))}, status")
    if request.collection not in collections:
        return BadRequest(f"no collection {request.collection!r} here; there is: {', '.join(sorted(collections))}")
    if not 1 <= request.items <= limits.queries_max:
        return _over(request.items, f"{request.items} items; a request has 1 to {limits.queries_max}", limits.queries_max)
    if request.op in NEEDS_TOP_K and not 1 <= request.top_k <= limits.top_k_max:
        return BadRequest(f"top_k is {request.top_k}; it is 1 to {limits.top_k_max}")
    if len(request.body) > limits.frame_max_bytes:
        return TooLarge(f"the body has {len(request.body)} bytes, the limit is {limits.frame_max_bytes}")
    if not -PRIORITY_MAX <= request.priority <= PRIORITY_MAX:
        return BadRequest(f"priority is {request.priority}; it is -{PRIORITY_MAX} to {PRIORITY_MAX}")
    if not 1 <= request.remaining_ms <= REMAINING_MAX_MS:
        return BadRequest(f"remaining_ms is {request.remaining_ms}; it is 1 to {REMAINING_MAX_MS}")
    return None


def _over(count: int, sentence: str, limit: int) -> RagpoolError:
    return TooLarge(sentence) if count > limit else BadRequest(sentence)


def _no_room(request: Request, bounds: Bounds, load: Load, now: float) -> RagpoolError | None:
    retry_after = min(max(load.wait_s / 2, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)
    if load.draining:
        return Overloaded("the pool is draining", retry_after=1.0)
    if load.client_pending >= bounds.window:
        return Overloaded(
            f"this client has {load.client_pending} requests pending, its window is {bounds.window}", retry_after=retry_after
        )
    if load.queued >= bounds.queue_max:
        return Overloaded(f"{load.queued} requests wait, the queue holds {bounds.queue_max}", retry_after=retry_after)
    if load.queued_bytes + len(request.body) > bounds.queue_max_bytes:
        return Overloaded(f"{load.queued_bytes} bytes wait, the queue holds {bounds.queue_max_bytes}", retry_after=retry_after)
    remaining_s = request.remaining_ms / 1000
    if load.wait_s > remaining_s:
        return Overloaded(
            f"the wait is about {load.wait_s:.1f} s, the deadline is in {remaining_s:.1f} s", retry_after=retry_after
        )
    if load.capacity_at is None or load.capacity_at > now + remaining_s:
        return NoWorkers(no_workers_sentence(load.capacity_at, now))
    return None


def no_workers_sentence(capacity_at: float | None, now: float) -> str:
    if capacity_at is None:
        return "no worker serves this pool, and none is on its way; `rag-broker status` says why"
    return f"no worker is ready before the deadline; the next may come in {max(0.0, capacity_at - now):.0f} s"
