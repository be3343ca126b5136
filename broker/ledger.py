"""Every request that is not answered yet, where it is, and when its time is up.

A pending request is in the queue, or with the workers in `running_on`, or, while it is hedged, both. `check` says where not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .clients import Clients
from .pending import Pending
from .request_queue import RequestQueue
from .timers import TimerWheel


class Ledger:
    def __init__(self, clients: Clients) -> None:
        self.queue = RequestQueue()
        self._clients = clients
        self._pending: dict[bytes, Pending] = {}
        self._wheel = TimerWheel()

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._pending.values())

    def get(self, request_id: bytes) -> Pending | None:
        return self._pending.get(request_id)

    def admit(self, pending: Pending) -> None:
        """A new request: it waits in the queue."""
        self._pending[pending.id] = pending
        self._wheel.set(pending.id, pending.deadline)
        self._clients.waiting_for(pending.client, pending.id)
        self.queue.push(pending)

    def rebind(self, pending: Pending, client: bytes) -> None:
        """The same request was sent again, maybe by another way: the answer goes there."""
        self._clients.no_longer_waiting_for(pending.client, pending.id)
        if pending.queued:
            self.queue.rebind(pending, client)
        pending.client = client
        self._clients.waiting_for(client, pending.id)

    def close(self, request_id: bytes) -> Pending | None:
        """It is answered, expired or cancelled: it is nowhere any more. None when it was not pending."""
        pending = self._pending.pop(request_id, None)
        if pending is None:
            return None
        self._wheel.drop(request_id)
        self._clients.no_longer_waiting_for(pending.client, request_id)
        if pending.queued:
            self.queue.remove(pending)
        return pending

    def running(self, pending: Pending, peer: bytes, now: float) -> None:
        """It was handed to the worker at `peer`, or found to run there."""
        if pending.queued:
            self.queue.remove(pending)
        pending.hedged = pending.hedged or bool(pending.running_on)
        pending.running_on = (*pending.running_on, peer)
        pending.dispatched = now

    def hedge(self, pending: Pending) -> None:
        """It is to be run once more elsewhere, while the first run goes on: the first answer wins."""
        pending.hedged = True
        self.queue.push_front([pending])

    def try_apart(self, suspects: Iterable[Pending]) -> None:
        """These ran on a worker that died of itself: those that wait now run apart from all others, in halves, then alone."""
        waiting = []
        for pending in suspects:
            pending.suspicion += 1
            if pending.queued:
                self.queue.remove(pending)
                waiting.append(pending)
        first_time = [pending for pending in waiting if pending.suspicion == 1]
        middle = (len(first_time) + 1) // 2
        halves = [half for half in (first_time[:middle], first_time[middle:]) if half]
        for trial in (*halves, *([pending] for pending in waiting if pending.suspicion > 1)):
            self.queue.push_trial(trial)

    def give_back(self, request_ids: Iterable[bytes], peer: bytes, avoid: str = "", later: float | None = None) -> list[Pending]:
        """The worker at `peer` will not answer these: those that run nowhere else return to the front of the queue, at `later`
        where that is given.

        `avoid` names an incarnation that they should not meet again.
        """
        returned = []
        for request_id in request_ids:
            pending = self._pending.get(request_id)
            if pending is None or peer not in pending.running_on:
                continue
            pending.running_on = tuple(other for other in pending.running_on if other != peer)
            if avoid:
                pending.avoid = (*pending.avoid, avoid)
            if not pending.running_on and not pending.queued:
                returned.append(pending)
        if later is None:
            self._wait_in_front(returned)
        else:
            for pending in returned:
                self.queue.push_later(pending, later)
        return returned

    def release(self, now: float) -> bool:
        """What was to be tried again by now waits for workers; whether there was any."""
        due = self.queue.pop_due(now)
        for pending in due:
            pending.retry_at = 0.0
        self._wait_in_front(due)
        return bool(due)

    def _wait_in_front(self, returned: list[Pending]) -> None:
        self.queue.push_front(pending for pending in returned if not pending.suspicion)
        for pending in returned:
            if pending.suspicion:
                self.queue.push_trial([pending])

    def expired(self, now: float) -> list[Pending]:
        """Requests whose deadline has come; they are closed."""
        closed = (self.close(request_id) for request_id in self._wheel.due(now))
        return [pending for pending in closed if pending is not None]

    def next_deadline(self) -> float | None:
        """When something expires, or is to be released."""
        times = [when for when in (self._wheel.next(), self.queue.next_due()) if when is not None]
        return min(times, default=None)

    def check(self) -> None:
        """Raise `RuntimeError` where a law is broken: for tests, after every step."""
        queued = list(self.queue)
        if len(queued) != len(self.queue) or {p.id for p in queued} != {p.id for p in self if p.queued}:
            raise RuntimeError("the queue and the ledger disagree on what waits")
        for pending in self:
            if pending.queued == bool(pending.running_on) and not (pending.queued and pending.hedged):
                raise RuntimeError(f"{pending.id.hex()} is queued: {pending.queued}, and running on {pending.running_on}")
        handed_out = [p for p in queued if not self.queue.is_later(p)]
        sums = (len(handed_out), sum(p.request.items for p in handed_out), sum(len(p.request.body) for p in handed_out))
        if (self.queue.count, self.queue.items, self.queue.bytes) != sums:
            raise RuntimeError("the sums of the queue are wrong")
        if len(self._wheel) != len(self._pending):
            raise RuntimeError("a pending request has no deadline")
