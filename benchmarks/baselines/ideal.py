"""[P] The ideal for an open loop: one queue, and servers that take all that waits, up to a limit, the moment they are free.

Nothing is lost on the way, and nothing but the batch itself takes time. Source: the usual M/G[b]/c queue, simulated.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import StatisticsError, fmean, linear_regression

from .stats import percentile

Stages = tuple[float, ...]
"""Milliseconds of each stage that a worker told with an answer. They are those of the batch: all of its answers tell the same."""


@dataclass(frozen=True, slots=True)
class Service:
    """How long batches take: the seconds of each of some sizes, and how single ones differ: their parts of the seconds of their
    size, each as likely as the others, whatever the size."""

    seconds: Mapping[int, float]
    parts: Sequence[float] = (1.0,)

    @classmethod
    def measured(cls, times: Mapping[int, Sequence[float]]) -> Service:
        """From the seconds of single batches by their size."""
        means = {size: fmean(of) for size, of in times.items()}
        return cls(means, [time / means[size] for size, of in times.items() for time in of])

    @classmethod
    def told(cls, answers: Iterable[Stages], sizes: Sequence[int]) -> Service | None:
        """Of the batches that `answers` came in, on the line of least squares through time by size; None without any."""
        batches = Counter(answers)
        if not batches:
            return None
        times = [sum(stages) / 1e3 for stages in batches]
        try:
            slope, intercept = linear_regression(list(batches.values()), times)
        except StatisticsError:  # all of one size
            slope, intercept = 0.0, fmean(times)
        line = {size: max(intercept + slope * size, min(times)) for size in {*sizes, *batches.values()}}
        parts = [time / line[size] for time, size in zip(times, batches.values(), strict=True)]
        return cls({size: line[size] for size in sizes}, parts)


def service_s(measured: Mapping[int, float], size: int) -> float:
    """Seconds that a batch of `size` takes: between two measured sizes on the line through them, beyond them in proportion."""
    sizes = sorted(measured)
    if size >= sizes[-1]:
        return measured[sizes[-1]] * size / sizes[-1]
    above = bisect_left(sizes, size)
    if sizes[above] == size or above == 0:
        return measured[sizes[above]]
    low, high = sizes[above - 1], sizes[above]
    share = (size - low) / (high - low)
    return measured[low] + share * (measured[high] - measured[low])


def sojourns(arrivals: Sequence[float], service: Service, most: int, servers: int = 2) -> list[float]:
    """Seconds from each of the sorted `arrivals` to the end of its batch, with batches of at most `most`."""
    ends = [service_s(service.seconds, size) for size in range(1, most + 1)]
    random = Random(1)
    free = [0.0] * servers
    found: list[float] = []
    first = 0
    while first < len(arrivals):
        begin = max(heapq.heappop(free), arrivals[first])
        last = first
        while last < len(arrivals) and last - first < most and arrivals[last] <= begin:
            last += 1
        end = begin + ends[last - first - 1] * random.choice(service.parts)
        found += [end - arrival for arrival in arrivals[first:last]]
        heapq.heappush(free, end)
        first = last
    return found


def ideal_p99(arrivals: Sequence[float], service: Service, servers: int = 2) -> tuple[float, int]:
    """(p99 in seconds, limit of the batch) with the measured size that gives the least p99."""
    return min((percentile(sojourns(arrivals, service, most, servers), 0.99), most) for most in service.seconds)
