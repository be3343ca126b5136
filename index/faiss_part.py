"""Encoded rows become a faiss file: an index is trained on a recorded sample and filled (`faiss_fill`), then calibrated and
measured."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .build_passages import Progress
from .effort import CANDIDATES, MARGIN, NEIGHBOURS, RECALL_WANTED, Tried, asked_of, cheapest, drawn, efforts, tried
from .errors import ConfigurationError
from .faiss_files import EF_SEARCH, PROBES, effort_of, from_factory, import_faiss, lists_of, reason, set_effort
from .faiss_fill import TRAINING, fill, train
from .index_types import HELD_OUT, Plan
from .manifest import HalfNorms, SearchFacts
from .vectors import PART, let_go, taken

if TYPE_CHECKING:
    from .engine import Engine

NO_NORMS = HalfNorms("none", 0.0, 0.0, 0.0)

_EF_LEAST = 16
_EF_MOST = 1_024
_MEASURED_S = 1.0
_BATCH = 32
_COMPARED_ROWS = 1_024

Matrix = NDArray[np.float32]


def make_part(
    matrix: Matrix, plan: Plan, seed: int, threads: int, folder: Path, progress: Progress = lambda stage, done, of: None
) -> SearchFacts:
    """Writes the file `faiss` of the rows float32 (count, dim) to `folder`, computing with `threads`.

    `recall_at_10` and `queries_per_s` are left to `measured`. Raises `ConfigurationError` where faiss cannot build it.
    """
    faiss = import_faiss()
    count, dim = matrix.shape
    held, sample = drawn(count, HELD_OUT, plan.sample_rows, seed)
    index = from_factory(plan.factory, dim)
    with computing(threads):
        try:
            progress(TRAINING, 0, len(sample))
            train(index, matrix, sample, seed)
            progress(TRAINING, len(sample), len(sample))
            fill(index, matrix, progress)
            faiss.write_index(index, str(folder / PART))
        except (RuntimeError, MemoryError) as error:
            raise ConfigurationError(f"faiss cannot build {plan.factory!r} of {count:,} rows: {reason(error)}") from None
        found = _calibrated(index, matrix, held, plan)
    return SearchFacts(
        part_bytes=(folder / PART).stat().st_size,
        sample_rows=len(sample),
        seed=seed,
        effort=found.effort,
        candidates=found.candidates,
        threads=threads,
        note=plan.note,
    )


def blocks_of(matrix: Matrix) -> Iterator[Matrix]:
    """A few rows at a time, so that no copy of all is ever made."""
    for first in range(0, len(matrix), _COMPARED_ROWS):
        yield np.asarray(matrix[first : first + _COMPARED_ROWS])
        let_go(matrix)


@contextlib.contextmanager
def computing(threads: int) -> Iterator[None]:
    """Torch, and faiss where it is installed, compute with so many threads meanwhile."""
    libraries: list[tuple[Callable[[int], object], int]] = [(torch.set_num_threads, torch.get_num_threads())]
    with contextlib.suppress(ConfigurationError):
        faiss = import_faiss()
        libraries.append((faiss.omp_set_num_threads, faiss.omp_get_max_threads()))
    try:
        for set_threads, _ in libraries:
            set_threads(threads)
        yield
    finally:
        for set_threads, before in libraries:
            set_threads(before)


def measured(engine: Engine, matrix: Matrix, seed: int, threads: int) -> tuple[float, float]:
    """(recall@10 against an exact search, queries a second on `threads`) of rows and of points between them, the lower; drawn
    anew, so that few of them calibrated. What is between is searched for ten, a row for one more: it finds itself."""
    with computing(threads):
        return _measured(engine, matrix, seed)


def _measured(engine: Engine, matrix: Matrix, seed: int) -> tuple[float, float]:
    count = len(matrix)
    own = np.random.default_rng(seed + 1).choice(count, size=min(HELD_OUT, count), replace=False).astype(np.int64)
    own = np.sort(own)
    queries = taken(matrix, own)
    asked = asked_of(queries, own, blocks_of(matrix))
    rows = _found(engine, queries, NEIGHBOURS + 1)
    between_them = _found(engine, asked.queries[len(own) :], NEIGHBOURS)
    found = np.concatenate([rows, np.pad(between_them, ((0, 0), (0, rows.shape[1] - between_them.shape[1])), constant_values=-1)])
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < _MEASURED_S or not done:
        part = queries[done % len(queries) :][:_BATCH]
        engine.search(part, NEIGHBOURS)
        done += len(part)
    return asked.recall(found), done / max(spent, 1e-9)


def _found(engine: Engine, queries: Matrix, k: int) -> NDArray[np.int64]:
    """The rows that are found, batch by batch: products and candidates of all at once take more memory than a small part."""
    batches = (queries[first : first + _BATCH] for first in range(0, len(queries), _BATCH))
    return np.concatenate([engine.search(batch, k)[1] for batch in batches])


def _calibrated(index: Any, matrix: Matrix, held: NDArray[np.int64], plan: Plan) -> Tried:
    """The effort and the number of candidates that find what is wanted of the held-out rows, at the least cost."""
    parameter = effort_of(index)
    asked = asked_of(taken(matrix, held), held, blocks_of(matrix))
    count = len(matrix)
    depth = min(count, (CANDIDATES[-1] if plan.refine else NEIGHBOURS) + 1)
    if parameter == PROBES:
        lists = lists_of(index)
        ladder, scanned = efforts(lists), count / lists
    elif parameter == EF_SEARCH:
        ladder, scanned = efforts(_EF_MOST, _EF_LEAST), 1.0
    else:
        ladder, scanned = [0], float(count)
    tries: list[Tried] = []
    for effort in ladder:
        set_effort(index, parameter, max(effort, 1))
        _, found = index.search(asked.queries, depth)
        tries += tried(found, asked, effort, scanned * max(effort, 1), plan.refine)
        best = cheapest(tries)
        if best.recall >= RECALL_WANTED and best.cost < scanned * effort:
            break
    found = cheapest(tries)
    return dataclasses.replace(found, effort=min(lists_of(index), MARGIN * found.effort)) if parameter == PROBES else found
