"""[P] How much a search must visit to find what an exact one finds: held-out rows, their true neighbours, and the cheapest
effort.

Held-out rows were not trained on. They are in the index all the same, so that each is asked for its ten nearest others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 10
RECALL_WANTED = 0.995
"""Of held-out passages, and of points between them. Questions are further from passages than these are from each other, and no
graph leads from a question to itself: a graph that finds 0.996 of the neighbours of passages finds 0.95 of those of SciFact's
claims, and 0.93 of those of points between two passages (docs/indexes.md)."""

MARGIN = 2
"""Times the lists that passages and points between them want are visited: where few lists are enough for these, as with
paragraphs of a few articles, questions find 0.98 of theirs with as many and 0.99 with twice as many."""

CANDIDATES = (16, 32, 64, 128, 256, 512, 1_024, 2_047)
"""With the row itself no more than faiss finds on a CUDA device."""

_NO_ROW = -2
_RESCORED_ROW = 16
"""Scanning one code is the unit; a candidate scored from its float16 row costs about this many."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tried:
    """An effort, how many candidates were scored again, what it found of the truth, and what it cost in codes scanned."""

    effort: int
    candidates: int
    recall: float
    cost: float


def drawn(count: int, held: int, sample: int, seed: int) -> tuple[Rows, Rows]:
    """(held-out rows, at most a quarter; rows of the sample), both ascending and apart from each other, the same for the same
    arguments. A single row is both."""
    held = max(1, min(held, count // 4))
    rng = np.random.default_rng(seed)
    chosen = rng.choice(count, size=min(count, held + sample), replace=False).astype(np.int64)
    return np.sort(chosen[:held]), np.sort(chosen[held:] if len(chosen) > held else chosen)


def true_neighbours(blocks: Iterable[NDArray[np.float32]], queries: NDArray[np.float32], own: Rows, k: int = NEIGHBOURS) -> Rows:
    """The k rows, other than a query's own, with the largest inner products: int64 (n, k), -1 where there are fewer."""
    n = len(queries)
    scores = np.full((n, k), -np.inf, dtype=np.float32)
    rows = np.full((n, k), -1, dtype=np.int64)
    first = 0
    for block in blocks:
        products = queries @ block.T
        here = np.flatnonzero((own >= first) & (own < first + len(block)))
        products[here, own[here] - first] = -np.inf
        few = np.argpartition(products, max(0, len(block) - k), axis=1)[:, -k:]
        joined = np.concatenate([scores, np.take_along_axis(products, few, axis=1)], axis=1)
        numbers = np.concatenate([rows, few + first], axis=1)
        best = np.argpartition(-joined, k - 1, axis=1)[:, :k]
        scores, rows = np.take_along_axis(joined, best, axis=1), np.take_along_axis(numbers, best, axis=1)
        first += len(block)
    rows[np.isneginf(scores)] = -1
    return rows


def between(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points between each of the rows float32 (n, dim) and one that stands far from it, since passages that stand together are
    often of one text: nothing that is in the index, and no nearer to it than a question. Lengths change no order of rows."""
    return np.ascontiguousarray(0.5 * rows + 0.5 * np.roll(rows, max(1, len(rows) // 3), axis=0))


def recall(found: Sequence[Sequence[int]], truth: Rows) -> float:
    """The mean share of the truth that was found."""
    wanted = [set(line) - {-1} for line in truth.tolist()]
    shares = [len(want.intersection(line)) / len(want) for line, want in zip(found, wanted, strict=True) if want]
    return float(np.mean(shares)) if shares else 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What is searched to see how much is found: `queries` float32 (n, dim); `own` rows int64 (n,), -1 for those that are no row;
    `truth` as of `true_neighbours`. The first half are held-out rows, the second the points between them."""

    queries: NDArray[np.float32]
    own: Rows
    truth: Rows

    def ranks(self, found: Rows) -> Rows:
        """The place of each true neighbour among what was found, int64 as `truth`; the row itself has no place. Beyond the last
        where it was not found, -1 where there is no such neighbour."""
        places = np.empty_like(self.truth)
        for place, line, own, truth in zip(places, found, self.own, self.truth, strict=True):
            others = np.append(line[line != own], _NO_ROW)
            same = others[None, :] == truth[:, None]
            place[:] = np.where(same.any(axis=1), same.argmax(axis=1), found.shape[1])
        return np.where(self.truth < 0, -1, places)

    def recall(self, found: Rows, k: int = NEIGHBOURS) -> float:
        """The share of the truth among the first k of `found`, of the rows or of the points between, whichever is less."""
        return self.recall_of(self.ranks(found), k)

    def recall_of(self, ranks: Rows, k: int) -> float:
        """The same from `ranks`."""
        half = len(ranks) // 2
        return min(_share(ranks[:half], k), _share(ranks[half:], k))


def _share(ranks: Rows, k: int) -> float:
    wanted = (ranks >= 0).sum(axis=1)
    shares = ((ranks >= 0) & (ranks < k)).sum(axis=1)[wanted > 0] / wanted[wanted > 0]
    return float(shares.mean()) if len(shares) else 1.0


def asked_of(rows: NDArray[np.float32], own: Rows, blocks: Iterable[NDArray[np.float32]]) -> Asked:
    """What to ask of an index of the rows in `blocks`; `rows` are those at `own`."""
    queries = np.concatenate([rows, between(rows)])
    own = np.concatenate([own, np.full(len(rows), -1)])
    return Asked(queries, own, true_neighbours(blocks, queries, own))


def tried(found: Rows, asked: Asked, effort: int, scanned: float, refine: bool) -> list[Tried]:
    """What one search says about every number of candidates that might be scored again: all of them find what they hold of the
    truth. Without refinement the first ten are what is found."""
    if not refine:
        return [Tried(effort, 0, asked.recall(found), scanned)]
    depths = [c for c in CANDIDATES if c < found.shape[1]] or [found.shape[1]]
    ranks = asked.ranks(found)
    return [Tried(effort, c, asked.recall_of(ranks, c), scanned + _RESCORED_ROW * c) for c in depths]


def cheapest(tries: Sequence[Tried], wanted: float = RECALL_WANTED) -> Tried:
    """The cheapest that finds enough; where none does, the cheapest of those that find about as much as the best."""
    bar = min(wanted, max(one.recall for one in tries) - 0.002)
    return min((one for one in tries if one.recall >= bar), key=lambda one: one.cost)


def efforts(most: int, least: int = 1) -> list[int]:
    """Doubling from `least` to `most`, which is the last."""
    ladder = [least]
    while ladder[-1] < most:
        ladder.append(min(2 * ladder[-1], most))
    return ladder
