"""The requests of a session that have no answer yet: which goes next, and when each wants attention. It decides nothing else.

Higher priorities go first. Within one priority the requests of a long call go one by one between those of other calls: the
chunk that is `behind` others of its call by n gets a turn n later, and turns advance with everything that is sent.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from enum import Enum

from .chunks import Chunk

TURN = 1 / 8
"""How far one sending advances the turns: at worst eight later requests pass a chunk that waits at the head."""


class Stage(Enum):
    """Where a pending request is: it waits here, it was sent, or it is sent later: the broker was busy, an answer was garbage."""

    WAITING = "waiting"
    SENT = "sent"
    BACKOFF = "backoff"


class Pending:
    """`deadline`, `connect_by` and `retry_at` are clock readings in seconds; `connect_by` counts until the first WELCOME."""

    __slots__ = ("chunk", "connect_by", "deadline", "id", "key", "retry_at", "stage")

    def __init__(self, identity: bytes, chunk: Chunk, deadline: float, connect_by: float, key: tuple[int, float, int]) -> None:
        self.id = identity
        self.chunk = chunk
        self.deadline = deadline
        self.connect_by = connect_by
        self.key = key
        self.stage = Stage.WAITING
        self.retry_at = math.inf


class Book:
    """All pending requests of one session, by id."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Pending] = {}
        self._ready: list[tuple[tuple[int, float, int], bytes]] = []
        self._alarms: list[tuple[float, int, Pending]] = []
        self._turn = 0.0
        self._count = 0
        self.sent = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Pending]:
        return iter(list(self._by_id.values()))

    def get(self, identity: bytes) -> Pending | None:
        return self._by_id.get(identity)

    def add(
        self, identity: bytes, chunk: Chunk, deadline: float, connect_by: float, behind: int, not_before: float | None = None
    ) -> None:
        """`not_before`: when it may be sent; None: at once. Raises `ValueError` for an id that is pending already."""
        if identity in self._by_id:
            raise ValueError(f"request {identity.hex()} is pending already")
        self._count += 1
        pending = Pending(identity, chunk, deadline, connect_by, (-chunk.priority, self._turn + behind, self._count))
        self._by_id[identity] = pending
        if not_before is None:
            heapq.heappush(self._ready, (pending.key, identity))
        else:
            pending.stage, pending.retry_at = Stage.BACKOFF, not_before
            self._alarm(not_before, pending)
        self._alarm(deadline, pending)
        if connect_by < deadline:
            self._alarm(connect_by, pending)

    def remove(self, identity: bytes) -> Pending | None:
        pending = self._by_id.pop(identity, None)
        if pending is not None and pending.stage is Stage.SENT:
            self.sent -= 1
        return pending

    def next_ready(self) -> Pending | None:
        """The request to be sent next, still waiting; None when none waits."""
        while self._ready:
            key, identity = self._ready[0]
            pending = self._by_id.get(identity)
            if pending is not None and pending.stage is Stage.WAITING and pending.key == key:
                return pending
            heapq.heappop(self._ready)
        return None

    def mark_sent(self, pending: Pending) -> None:
        pending.stage = Stage.SENT
        self.sent += 1
        self._turn = max(self._turn, pending.key[1]) + TURN

    def back_off(self, pending: Pending, retry_at: float) -> None:
        """A sent request waits until `retry_at`."""
        pending.stage, pending.retry_at = Stage.BACKOFF, retry_at
        self.sent -= 1
        self._alarm(retry_at, pending)

    def wait_again(self, pending: Pending) -> None:
        """A sent or backed-off request goes back to the place it had."""
        if pending.stage is Stage.SENT:
            self.sent -= 1
        pending.stage, pending.retry_at = Stage.WAITING, math.inf
        heapq.heappush(self._ready, (pending.key, pending.id))

    def due(self, now: float) -> Iterator[Pending]:
        """Requests one of whose times has come, each perhaps twice. They may be removed or moved meanwhile."""
        while self._alarms and self._alarms[0][0] <= now:
            pending = heapq.heappop(self._alarms)[2]
            if self._by_id.get(pending.id) is pending:
                yield pending

    def next_due(self) -> float | None:
        """When `due` has something next; None while nothing is pending."""
        while self._alarms and self._by_id.get(self._alarms[0][2].id) is not self._alarms[0][2]:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    def _alarm(self, when: float, pending: Pending) -> None:
        # answered requests leave their alarms behind: swept when they are the most part, so that this stays O(1) a request
        if len(self._alarms) > 64 + 4 * len(self._by_id):
            self._alarms = [alarm for alarm in self._alarms if self._by_id.get(alarm[2].id) is alarm[2]]
            heapq.heapify(self._alarms)
        self._count += 1
        heapq.heappush(self._alarms, (when, self._count, pending))

    def check(self) -> None:
        """Raise `RuntimeError` where a law is broken: for tests, after every step."""
        sent = sum(pending.stage is Stage.SENT for pending in self._by_id.values())
        if sent != self.sent:
            raise RuntimeError(f"{sent} requests are sent, {self.sent} are counted")
        ready = {identity for _, identity in self._ready}
        alarms = {(when, pending.id) for when, _, pending in self._alarms}
        for pending in self._by_id.values():
            if pending.stage is Stage.WAITING and pending.id not in ready:
                raise RuntimeError(f"request {pending.id.hex()} waits and would never be sent")
            if (pending.deadline, pending.id) not in alarms:
                raise RuntimeError(f"request {pending.id.hex()} has no alarm for its deadline")
            if pending.stage is Stage.BACKOFF and (pending.retry_at, pending.id) not in alarms:
                raise RuntimeError(f"request {pending.id.hex()} has no alarm for its retry")
