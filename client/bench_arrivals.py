"""When the requests of an open loop are due, in seconds from its start. Pure: knows no clock, and nothing of answers.

A schedule never waits for a server: that makes the loop open, and is why its latencies count from the time a request was due.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

CONSTANT = "constant"
POISSON = "poisson"


def arrivals(kind: str, rate: float, share: int, shares: int, seed: int) -> Iterator[float]:
    """The part of process `share` of `shares` in a schedule of `rate` requests a second; rising, without end.

    Constant parts interleave to one even schedule. Poisson parts are independent and make up a Poisson process of the whole rate.
    """
    if kind == CONSTANT:
        return ((share + shares * turn) / rate for turn in count())
    return _poisson(rate / shares, Random(f"{seed}/{share}"))


def _poisson(rate: float, rng: Random) -> Iterator[float]:
    at = rng.expovariate(rate)
    while True:
        yield at
        at += rng.expovariate(rate)
