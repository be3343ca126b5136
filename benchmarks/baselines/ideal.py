"""[P] The ideal for an open loop: one queue, and servers that take all that waits, up to a limit, the moment they are free.

Nothing is lost on the way, and nothing but the batch itself takes time. Source: the usual M/G[b]/c queue, simulated.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import StatisticsError, fmean, linear_regression

from .stats import percentile

Stages = tuple[float, ...]
"""Milliseconds of each stage that a worker told with an answer. They are those of the batch: all of its answers tell the same."""


def batch_s(answers: Iterable[Stages], sizes: Sequence[int]) -> dict[int, float]:
    """Seconds that batches of these sizes took a worker, on the line of least squares through those that `answers` came in; empty
    without any."""
    batches = Counter(answers)
    if not batches:
        return {}
    seconds = [sum(stages) / 1e3 for stages in batches]
    try:
        slope, intercept = linear_regression(list(batches.values()), seconds)
    except StatisticsError:  # all of one size
        slope, intercept = 0.0, fmean(seconds)
    return {size: max(intercept + slope * size, min(seconds)) for size in sizes}


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


def sojourns(arrivals: Sequence[float], measured: Mapping[int, float], most: int, servers: int = 2) -> list[float]:
    """Seconds from each of the sorted `arrivals` to the end of its batch, with batches of at most `most`."""
    ends = [service_s(measured, size) for size in range(1, most + 1)]
    free = [0.0] * servers
    found: list[float] = []
    first = 0
    while first < len(arrivals):
        begin = max(heapq.heappop(free), arrivals[first])
        last = first
        while last < len(arrivals) and last - first < most and arrivals[last] <= begin:
            last += 1
        end = begin + ends[last - first - 1]
        found += [end - arrival for arrival in arrivals[first:last]]
        heapq.heappush(free, end)
        first = last
    return found


def ideal_p99(arrivals: Sequence[float], measured: Mapping[int, float], servers: int = 2) -> tuple[float, int]:
    """(p99 in seconds, limit of the batch) with the measured size that gives the least p99."""
    return min((percentile(sojourns(arrivals, measured, most, servers), 0.99), most) for most in measured)
