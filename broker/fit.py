"""How long a worker takes: t = a + b x cost, by least squares over its past batches, the older the lighter.

A plain average of time per unit swings with the size of the batch; two parameters tell the fixed part from the rest.
"""

from __future__ import annotations

DECAY = 0.95
"""Weight of a batch against the one after it: the last twenty count."""

SPREAD_MIN = 0.05
"""Relative variance of cost below which the slope is kept: equal batches say nothing of it."""


class Fit:
    """Decayed sums of one worker. Seconds and cost (estimated tokens) are positive."""

    __slots__ = ("_cost", "_cost2", "_product", "_seconds", "_weight", "a", "b")

    def __init__(self) -> None:
        self._weight = self._cost = self._seconds = self._cost2 = self._product = 0.0
        self.a = 0.0
        self.b = 0.0

    @property
    def known(self) -> bool:
        """Whether any batch was measured yet."""
        return self._weight > 0.0

    def observe(self, cost: float, seconds: float) -> None:
        """One batch of `cost` took `seconds`."""
        self._weight = DECAY * self._weight + 1.0
        self._cost = DECAY * self._cost + cost
        self._seconds = DECAY * self._seconds + seconds
        self._cost2 = DECAY * self._cost2 + cost * cost
        self._product = DECAY * self._product + cost * seconds
        mean_cost, mean_seconds = self._cost / self._weight, self._seconds / self._weight
        variance = self._cost2 / self._weight - mean_cost * mean_cost
        proportional = mean_seconds / mean_cost
        if variance > SPREAD_MIN * mean_cost * mean_cost:
            covariance = self._product / self._weight - mean_cost * mean_seconds
            self.b = min(max(covariance / variance, 0.0), proportional)
        elif not 0.0 < self.b <= proportional:
            self.b = proportional / 2
        self.a = mean_seconds - self.b * mean_cost

    def predict(self, cost: float) -> float:
        """Seconds that a batch of `cost` takes; 0 while nothing was measured, so that a new worker is tried."""
        return self.a + self.b * cost

    @property
    def rate(self) -> float:
        """Cost a second at the usual batch; 0 while nothing was measured."""
        return self._cost / self._seconds if self._seconds > 0.0 else 0.0
