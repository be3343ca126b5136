"""What an exact search over stored rows must find: a float64 product by numpy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

SLACK = 1e-6
"""Times the norms of the query and of the longest row: rows whose float64 scores differ by less may change places."""

_QUERIES_AT_A_TIME = 256


class Oracle:
    """Over rows float32 (count, dim)."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = np.asarray(rows, np.float64)
        self._longest = np.linalg.norm(self._rows, axis=1).max()

    def best(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """The min(k, count) rows with the largest products, best first, equal ones by number: int64 (n, k)."""
        return np.concatenate([np.argsort(-scores, axis=1, kind="stable")[:, :k] for _, scores in self._scored(queries)])

    def right(self, queries: NDArray[np.float32], found: Sequence[Sequence[int]], k: int) -> list[bool]:
        """Whether the rows that were found for each query, best first, are those that there are to find."""
        return [
            self._is_right(scores, list(rows), k, SLACK * np.linalg.norm(queries[first + place]) * self._longest)
            for first, block in self._scored(queries)
            for place, (scores, rows) in enumerate(zip(block, found[first : first + len(block)], strict=True))
        ]

    def _is_right(self, scores: NDArray[np.float64], rows: list[int], k: int, slack: float) -> bool:
        best = np.sort(scores)[::-1][:k]
        whole = len(set(rows)) == len(rows) == len(best) and min(rows) >= 0
        return whole and bool((np.abs(scores[rows] - best) <= slack).all())

    def _scored(self, queries: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """(number of its first query, products) of some queries at a time."""
        for first in range(0, len(queries), _QUERIES_AT_A_TIME):
            yield first, queries[first : first + _QUERIES_AT_A_TIME].astype(np.float64) @ self._rows.T
