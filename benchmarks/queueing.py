"""Queues in virtual time: the workload, and what the broker is held against: a central queue and three ways to choose blindly.

A server takes one batch at a time: `speed x (a + b x work)` seconds, where work is the sum over its jobs. Nothing here is ours
to measure; every policy sees the same arrivals and the same jobs.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

SERVICES = ("fixed", "exponential", "two speeds", "one stalls")
SLOW = 4.0
"""How much slower the second half of the servers is where there are two speeds."""

STALL_EVERY = 200.0
STALL_LASTS = 25.0
"""In full batches: the first server stands still that long that often, where one stalls, at the same times for every policy."""

Floats = NDArray[np.float64]
Duration = Callable[[int, float, float], float]
"""Seconds that a server takes for a batch of that much work which it begins at that time."""


@dataclass(frozen=True)
class Shape:
    """What a batch costs: `a` + `b` x jobs seconds, `most` jobs in one."""

    name: str
    a_s: float
    b_s: float
    most: int

    @property
    def full_s(self) -> float:
        return self.a_s + self.b_s * self.most


UNIT = Shape("unit jobs", 0.0, 0.010, 1)
BATCHES = Shape("batches", 0.005, 0.0005, 32)
SMALL_BATCHES = Shape("batches", 0.005, 0.0005, 8)
"""For hundreds of servers: with few jobs for each of them, larger batches would never reach a steady state."""


@dataclass(frozen=True)
class Workload:
    servers: int
    shape: Shape
    service: str
    load: float
    jobs: int
    seed: int = 1

    @property
    def speeds(self) -> list[float]:
        slow = self.servers // 2 if self.service == "two speeds" else 0
        return [1.0] * (self.servers - slow) + [SLOW] * slow

    @property
    def service_s(self) -> float:
        """Mean time of one full batch on the faster servers."""
        return self.shape.full_s

    def arrivals(self) -> Floats:
        """Poisson, at `load` of what all servers do in full batches (stalls included)."""
        lost = STALL_LASTS / STALL_EVERY if self.service == "one stalls" else 0.0
        capacity = sum(1.0 / speed for speed in self.speeds) - lost
        rate = self.load * capacity * self.shape.most / self.shape.full_s
        return np.cumsum(np.random.default_rng(self.seed).exponential(1.0 / rate, self.jobs))

    def works(self) -> Floats:
        """The work of each job, 1 on average."""
        if self.service == "exponential":
            return np.random.default_rng(self.seed + 1).exponential(1.0, self.jobs)
        return np.ones(self.jobs)

    def duration(self) -> Duration:
        shape, speeds = self.shape, self.speeds
        if self.service != "one stalls":
            return lambda server, work, now: speeds[server] * (shape.a_s + shape.b_s * work)
        period, active = STALL_EVERY * shape.full_s, (STALL_EVERY - STALL_LASTS) * shape.full_s

        def stalling(server: int, work: float, now: float) -> float:
            left, at = shape.a_s + shape.b_s * work, now
            while server == 0 and left > (room := max(0.0, active - at % period)):
                left -= room
                at += period - at % period
            return at + left - now

        return stalling


# ---- what we are held against --------------------------------------------------------------------------------------


class Central:
    """One queue; a free server takes what waits, the fastest free server first. Nobody can do better without knowing jobs."""

    name = "central queue"

    def __init__(self, speeds: Sequence[float], rng: Random) -> None:
        self._speeds = speeds
        self._idle = [(speed, server) for server, speed in enumerate(speeds)]
        heapq.heapify(self._idle)
        self._queue: deque[int] = deque()

    def arrive(self, job: int) -> int | None:
        """The server that starts now, if one does."""
        self._queue.append(job)
        return heapq.heappop(self._idle)[1] if self._idle else None

    def finish(self, server: int) -> bool:
        """Whether `server` starts again at once."""
        if not self._queue:
            heapq.heappush(self._idle, (self._speeds[server], server))
        return bool(self._queue)

    def queue_of(self, server: int) -> deque[int]:
        return self._queue


class Blind:
    """A queue for each server; the server is chosen when the job comes, and that is that."""

    name = ""

    def __init__(self, speeds: Sequence[float], rng: Random) -> None:
        self._queues: list[deque[int]] = [deque() for _ in speeds]
        self._busy = [False] * len(speeds)
        self._rng = rng
        self._turn = 0

    def choose(self) -> int:
        raise NotImplementedError

    def arrive(self, job: int) -> int | None:
        server = self.choose()
        self._queues[server].append(job)
        if self._busy[server]:
            return None
        self._busy[server] = True
        return server

    def finish(self, server: int) -> bool:
        self._busy[server] = bool(self._queues[server])
        return self._busy[server]

    def queue_of(self, server: int) -> deque[int]:
        return self._queues[server]


class AtRandom(Blind):
    name = "random"

    def choose(self) -> int:
        return int(self._rng.random() * len(self._queues))


class RoundRobin(Blind):
    name = "round robin"

    def choose(self) -> int:
        self._turn = (self._turn + 1) % len(self._queues)
        return self._turn


class TwoChoices(Blind):
    """Two at random, the one with fewer jobs waiting, an idle one before a busy one."""

    name = "two choices"

    def choose(self) -> int:
        one, other = (int(self._rng.random() * len(self._queues)) for _ in range(2))
        return min(one, other, key=lambda server: len(self._queues[server]) + self._busy[server])


POLICIES: tuple[type[Central] | type[Blind], ...] = (Central, AtRandom, RoundRobin, TwoChoices)


def sojourns(policy: type[Central] | type[Blind], workload: Workload) -> Floats:
    """Seconds from arrival to answer of every job."""
    arrivals, works = workload.arrivals().tolist(), workload.works().tolist()
    state = policy(workload.speeds, Random(workload.seed))
    duration, most = workload.duration(), workload.shape.most
    left = np.zeros(len(arrivals))
    running: list[tuple[float, int, list[int]]] = []

    def begin(server: int, now: float) -> None:
        queue = state.queue_of(server)
        batch = [queue.popleft() for _ in range(min(most, len(queue)))]
        heapq.heappush(running, (now + duration(server, sum(works[job] for job in batch), now), server, batch))

    def end_until(time: float) -> None:
        while running and running[0][0] <= time:
            now, server, batch = heapq.heappop(running)
            left[batch] = now
            if state.finish(server):
                begin(server, now)

    for job, now in enumerate(arrivals):
        end_until(now)
        server = state.arrive(job)
        if server is not None:
            begin(server, now)
    end_until(float("inf"))
    return left - np.asarray(arrivals)
