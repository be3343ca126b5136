"""What waits for a worker: one queue, a fair share per client, higher priorities first.

Within a priority the client that got least so far is next, counted in cost (start-time fair queueing, Goyal and others, 1996): a
client that just came waits for no backlog of another. A lower priority is served after `PASSED_MAX` requests went past it, so
it is slowed, not starved. What a lost worker gives back goes to the front of everything.

Requests that may have killed a worker wait apart, in trials: groups that run together, and with nobody else. Requests that
workers failed over wait apart until they are due, and nobody is given them before: they count in no sum by which work is shared
or refused.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from .pending import Pending

PASSED_MAX = 16


class _Share:
    """The waiting requests of one client at one priority. `start` is the virtual time at which its next one begins."""

    __slots__ = ("client", "requests", "start")

    def __init__(self, client: bytes, start: float) -> None:
        self.client = client
        self.requests: OrderedDict[bytes, Pending] = OrderedDict()
        self.start = start


class _Level:
    """One priority. Its shares stand in a heap by virtual start time; one that emptied is skipped when it surfaces."""

    __slots__ = ("_clock", "_heap", "_sequence", "_shares", "count", "passed")

    def __init__(self) -> None:
        self._shares: dict[bytes, _Share] = {}
        self._heap: list[tuple[float, int, _Share]] = []
        self._sequence = 0
        self._clock = 0.0
        self.count = 0
        self.passed = 0

    def push(self, pending: Pending) -> None:
        share = self._shares.get(pending.client)
        if share is None:
            share = self._shares[pending.client] = _Share(pending.client, self._clock)
            self._rank(share)
        share.requests[pending.id] = pending
        self.count += 1

    def pop(self) -> Pending:
        share = heapq.heappop(self._heap)[2]
        while self._shares.get(share.client) is not share:
            share = heapq.heappop(self._heap)[2]
        _, pending = share.requests.popitem(last=False)
        self.count -= 1
        self._clock = share.start
        share.start += pending.cost
        if share.requests:
            self._rank(share)
        else:
            del self._shares[share.client]
        return pending

    def remove(self, pending: Pending) -> None:
        share = self._shares[pending.client]
        del share.requests[pending.id]
        self.count -= 1
        if not share.requests:
            del self._shares[share.client]
            if len(self._heap) > 2 * len(self._shares) + 64:
                self._heap = [entry for entry in self._heap if self._shares.get(entry[2].client) is entry[2]]
                heapq.heapify(self._heap)

    def __iter__(self) -> Iterator[Pending]:
        for share in self._shares.values():
            yield from share.requests.values()

    def _rank(self, share: _Share) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (share.start, self._sequence, share))


class RequestQueue:
    """Every `Pending` in it has `queued` set; nothing else sets it. `count`, `items`, `bytes` and `cost` are sums over what may
    be handed out now; `later` is how many may not."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._returned: OrderedDict[bytes, Pending] = OrderedDict()
        self._trials: OrderedDict[int, dict[bytes, Pending]] = OrderedDict()
        self._trial_of: dict[bytes, int] = {}
        self._trial_number = 0
        self._later: dict[bytes, tuple[float, Pending]] = {}
        self._due: list[tuple[float, int, Pending]] = []
        self._sequence = 0
        self.count = 0
        self.items = 0
        self.bytes = 0
        self.cost = 0.0

    def __len__(self) -> int:
        return self.count + self.later

    def __iter__(self) -> Iterator[Pending]:
        """All that waits, in no particular order."""
        yield from (pending for _, pending in self._later.values())
        yield from self._returned.values()
        for trial in self._trials.values():
            yield from trial.values()
        for level in self._levels.values():
            yield from level

    def push(self, pending: Pending) -> None:
        """At the end of its client's share."""
        level = self._levels.get(pending.request.priority)
        if level is None:
            level = self._levels[pending.request.priority] = _Level()
        level.push(pending)
        self._count(pending, 1)

    def push_front(self, returned: Iterable[Pending]) -> None:
        """In front of everything, in the order given."""
        for pending in reversed(list(returned)):
            self._returned[pending.id] = pending
            self._returned.move_to_end(pending.id, last=False)
            self._count(pending, 1)

    @property
    def later(self) -> int:
        """How many wait until they are due."""
        return len(self._later)

    def is_later(self, pending: Pending) -> bool:
        return pending.id in self._later

    def push_later(self, pending: Pending, due: float) -> None:
        """Nobody is given it before `due`."""
        pending.queued = True
        self._later[pending.id] = (due, pending)
        self._sequence += 1
        heapq.heappush(self._due, (due, self._sequence, pending))

    def pop_due(self, now: float) -> list[Pending]:
        """Those that are due, in the order in which they were to be."""
        due = []
        while (when := self.next_due()) is not None and when <= now:
            pending = heapq.heappop(self._due)[2]
            del self._later[pending.id]
            pending.queued = False
            due.append(pending)
        return due

    def next_due(self) -> float | None:
        """When one is due; None where none waits so."""
        while self._due and self._later.get(self._due[0][2].id) != (self._due[0][0], self._due[0][2]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    @property
    def ordinary(self) -> int:
        """How many wait outside of trials."""
        return self.count - len(self._trial_of)

    @property
    def trials(self) -> int:
        """How many groups wait to run apart. While one does, nothing is parked: some worker must become idle for it."""
        return len(self._trials)

    def push_trial(self, suspects: Iterable[Pending]) -> None:
        """These run together and with nobody else."""
        self._trial_number += 1
        self._trials[self._trial_number] = {pending.id: pending for pending in suspects}
        for pending in self._trials[self._trial_number].values():
            self._trial_of[pending.id] = self._trial_number
            self._count(pending, 1)

    def pop_trial(self) -> list[Pending]:
        """The next trial; empty when there is none."""
        if not self._trials:
            return []
        _, trial = self._trials.popitem(last=False)
        for pending in trial.values():
            del self._trial_of[pending.id]
            self._count(pending, -1)
        return list(trial.values())

    def pop(self) -> Pending:
        """The next request to run, trials aside; raises `IndexError` when none waits."""
        if self._returned:
            _, pending = self._returned.popitem(last=False)
        else:
            priority = self._next_priority()
            pending = self._levels[priority].pop()
            self._forget_empty(priority)
        self._count(pending, -1)
        return pending

    def remove(self, pending: Pending) -> None:
        """Take one out: cancelled, expired, or adopted by a worker that runs it already."""
        if self._later.pop(pending.id, None) is not None:
            pending.queued = False
            return
        if pending.id in self._trial_of:
            number = self._trial_of.pop(pending.id)
            del self._trials[number][pending.id]
            if not self._trials[number]:
                del self._trials[number]
        elif self._returned.pop(pending.id, None) is None:
            self._levels[pending.request.priority].remove(pending)
            self._forget_empty(pending.request.priority)
        self._count(pending, -1)

    def rebind(self, pending: Pending, client: bytes) -> None:
        """A waiting request is now another client's: it waits in that one's share, unless it stands in front of everything."""
        in_front = pending.id in self._returned or pending.id in self._trial_of or pending.id in self._later
        if not in_front:
            self._levels[pending.request.priority].remove(pending)
        pending.client = client
        if not in_front:
            self._levels[pending.request.priority].push(pending)

    def _next_priority(self) -> int:
        if len(self._levels) == 1:
            return next(iter(self._levels))
        waiting = sorted(self._levels)
        if not waiting:
            raise IndexError("nothing waits")
        chosen = next((p for p in reversed(waiting) if self._levels[p].passed >= PASSED_MAX), waiting[-1])
        for priority in waiting:
            if priority < chosen:
                self._levels[priority].passed += 1
        self._levels[chosen].passed = 0
        return chosen

    def _forget_empty(self, priority: int) -> None:
        if not self._levels[priority].count:
            del self._levels[priority]

    def _count(self, pending: Pending, sign: int) -> None:
        pending.queued = sign > 0
        self.count += sign
        self.items += sign * pending.request.items
        self.bytes += sign * len(pending.request.body)
        self.cost += sign * pending.cost
