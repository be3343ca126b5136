"""One worker, and exactly what it holds.

A credit is a request handed to a worker and not yet given back: `len(worker.in_flight)`. It returns by the worker's own reply,
late ones too, by its death, or when its heartbeat no longer names the request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ..wire.messages import Heartbeat, Register
from .fit import Fit
from .metrics import WorkerMetrics
from .pending import Pending
from .states import DRAINING, LEAVING, WorkerState

BATCHES_MAX = 2
"""One batch running and one ready."""

AWAY_SHARE = 0.1
"""Weight of the newest batch in `Worker.away_s`."""


class Batch:
    """What one message handed to a worker; it is over when every id in `open` was answered."""

    __slots__ = ("cost", "items", "open", "sent_at", "sent_count", "trial")

    def __init__(self, ids: set[bytes], items: int, cost: float, sent_at: float, sent_count: int) -> None:
        self.open = ids
        self.items = items
        self.cost = cost
        self.sent_at = sent_at
        self.sent_count = sent_count
        self.trial = False


class Worker:
    """`peer` is the way to it; `info` what it said of itself; `heard` when it last gave a sign of life."""

    __slots__ = (
        "_done_at", "_sent_count", "away_s", "batch_age_ms", "batches", "fit", "heard", "in_flight", "info", "joined",
        "last_batch_s", "metrics", "peer", "state",
    )  # fmt: skip

    def __init__(self, peer: bytes, info: Register, now: float) -> None:
        self.peer = peer
        self.info = info
        self.state = WorkerState(info.state, now)
        self.heard = now
        self.joined = now
        self.batch_age_ms = 0
        self.batches: deque[Batch] = deque()
        self.in_flight: dict[bytes, Batch] = {}
        self.fit = Fit()
        self.metrics = WorkerMetrics()
        self.last_batch_s = 0.0
        self.away_s: float | None = None
        """What the way there and back adds to a batch, in seconds; None while nothing was measured."""
        self._done_at = now
        self._sent_count = 0

    @property
    def capacity(self) -> int:
        """Items that it may hold: one batch running and one ready."""
        return BATCHES_MAX * self.info.max_batch

    @property
    def on_trial(self) -> bool:
        """It runs suspects: nobody else may be with them."""
        return any(batch.trial for batch in self.batches)

    def running_s(self, now: float) -> float:
        """How long its oldest batch has been running; 0 when it has none."""
        return now - max(self.batches[0].sent_at, self._done_at) if self.batches else 0.0

    def sent(self, pendings: list[Pending], now: float, *, trial: bool = False) -> None:
        """These were handed over in one message; as a `trial`, alone."""
        self._sent_count += len(pendings)
        items = sum(pending.request.items for pending in pendings)
        self._hold([pending.id for pending in pendings], items, sum(pending.cost for pending in pendings), now)
        self.batches[-1].trial = trial
        self.metrics.sent(items)

    def adopted(self, running: Sequence[bytes], now: float) -> None:
        """It came with these already running: they are credits, but nothing to learn its speed from."""
        if running:
            self._hold(running, len(running), 0.0, now)

    def _hold(self, ids: Sequence[bytes], items: int, cost: float, now: float) -> None:
        batch = Batch(set(ids), items, cost, now, self._sent_count)
        self.batches.append(batch)
        for request_id in ids:
            self.in_flight[request_id] = batch

    def returned(self, request_id: bytes, busy_s: float, now: float) -> bool:
        """It answered, well or badly, after `busy_s` of work (0 where it does not say); True where it held a credit for it.

        A batch that is over teaches the fit; one that found the worker idle also shows how long the way there and back is.
        """
        if request_id not in self.in_flight:
            return False
        batch = self._release(request_id)
        if not batch.open:
            if batch.cost > 0.0:
                self.last_batch_s = max(now - max(batch.sent_at, self._done_at), 1e-6)
                if busy_s and batch.sent_at >= self._done_at:
                    self._learn_away(max(0.0, self.last_batch_s - busy_s))
                self.fit.observe(batch.cost, self.last_batch_s)
            self._done_at = now
        return True

    def _learn_away(self, away_s: float) -> None:
        self.away_s = away_s if self.away_s is None else self.away_s + AWAY_SHARE * (away_s - self.away_s)

    def _release(self, request_id: bytes) -> Batch:
        batch = self.in_flight.pop(request_id)
        batch.open.discard(request_id)
        if not batch.open:
            self.batches.remove(batch)
        return batch

    def forgotten(self, beat: Heartbeat) -> list[bytes]:
        """Ids that it got, did not answer and does not hold: they were lost on the way, or inside it. Their credits return."""
        if not self.in_flight:
            return []
        held = set(beat.holding)
        lost = [i for i, batch in self.in_flight.items() if batch.sent_count <= beat.received and i not in held]
        for request_id in lost:
            self._release(request_id)
        return lost

    def interrupted(self) -> None:
        """Time stood still: how long the batches take that run now says nothing of its speed."""
        for batch in self.batches:
            batch.cost = 0.0

    def finish_at(self, now: float) -> float:
        """When it will have done all it holds, by its fit."""
        at = now
        for batch in self.batches:
            begun = max(batch.sent_at, self._done_at) if batch is self.batches[0] else at
            at = max(now, begun + self.fit.predict(batch.cost))
        return at

    def leave(self, now: float) -> None:
        """It drains: no new work."""
        if self.state.name != DRAINING:
            self.state.on(LEAVING, now)
