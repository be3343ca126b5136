"""Encoded rows become a faiss file: trained on a recorded sample, filled in one go, then calibrated and measured.

Memory beyond the finished part is bounded: rows are read from their mapped file, vectors of a growing index are sized before they
are filled, and the sample is no larger than its clusters want.
"""

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
from .faiss_files import EF_SEARCH, PROBES, effort_of, from_factory, import_faiss, innermost, lists_of, set_effort
from .index_types import BLOCK_ROWS, HELD_OUT, HNSW_EF_CONSTRUCTION, Plan
from .manifest import HalfNorms, SearchFacts
from .vectors import PART

if TYPE_CHECKING:
    from .engine import Engine

NO_NORMS = HalfNorms("none", 0.0, 0.0, 0.0)

TRAINING = "training"
ADDING = "adding"
_GRAPH_BLOCK_ROWS = 8_192
"""Seconds of work, and enough for all threads."""

_EF_LEAST = 16
_EF_MOST = 1_024
_MEASURED_S = 1.0
_BATCH = 32

_OPQ = (8, 10, 2, 16_384)
"""Rounds, rounds of the first and of every further quantiser, and rows that the rotation is trained with: a sixth of faiss' own,
for nearly all of the gain (docs/indexes.md)."""

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
            _train(faiss, index, matrix, sample, seed)
            progress(TRAINING, len(sample), len(sample))
            _fill(faiss, index, matrix, progress)
            faiss.write_index(index, str(folder / PART))
        except (RuntimeError, MemoryError) as error:
            reason = str(error).strip().splitlines()[0].rsplit("Error: ", 1)[-1]
            raise ConfigurationError(f"faiss cannot build {plan.factory!r} of {count:,} rows: {reason}") from None
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
    """A few thousand rows at a time, so that no copy of all is ever made."""
    for first in range(0, len(matrix), 2_048):
        yield np.asarray(matrix[first : first + 2_048])


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
    queries = np.ascontiguousarray(matrix[np.sort(own)])
    own = np.sort(own)
    asked = asked_of(queries, own, blocks_of(matrix))
    _, rows = engine.search(queries, NEIGHBOURS + 1)
    _, between_them = engine.search(asked.queries[len(own) :], NEIGHBOURS)
    found = np.concatenate([rows, np.pad(between_them, ((0, 0), (0, rows.shape[1] - between_them.shape[1])), constant_values=-1)])
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < _MEASURED_S or not done:
        part = queries[done % len(queries) :][:_BATCH]
        engine.search(part, NEIGHBOURS)
        done += len(part)
    return asked.recall(found), done / max(spent, 1e-9)


def _train(faiss: Any, index: Any, matrix: Matrix, sample: NDArray[np.int64], seed: int) -> None:
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.cp.seed = seed % (1 << 31)
        ivf.cp.min_points_per_centroid = 1  # too few points are our business, and said in words
        ivf.cp.max_points_per_centroid = 64
    inner = faiss.downcast_index(ivf) if ivf is not None else index
    if isinstance(index, faiss.IndexPreTransform):
        first = faiss.downcast_VectorTransform(index.chain.at(0))
        if isinstance(first, faiss.OPQMatrix):
            first.niter, first.niter_pq_0, first.niter_pq, first.max_train_points = _OPQ
            codes = faiss.ProductQuantizer(first.d_out, first.M, 8)
            codes.cp.min_points_per_centroid, codes.cp.seed = 1, seed % (1 << 31)
            first.pq = codes
            index.referenced_objects = [codes]
    if hasattr(inner, "pq"):
        inner.pq.cp.seed = seed % (1 << 31)
        inner.pq.cp.min_points_per_centroid = 1
    if hasattr(inner, "hnsw"):
        inner.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
    if not index.is_trained:
        index.train(np.ascontiguousarray(matrix[sample]))


def _fill(faiss: Any, index: Any, matrix: Matrix, progress: Progress) -> None:
    """Adds all rows, block by block. What would double as it grows is sized first: codes and links of a graph, and inverted
    lists, which grow each for itself."""
    ivf = faiss.try_extract_index_ivf(index)
    progress(ADDING, 0, len(matrix))
    if ivf is not None and isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.ArrayInvertedLists):
        _fill_lists(faiss, index, ivf, matrix, progress)
        return
    inner = innermost(index)
    step = BLOCK_ROWS
    if isinstance(inner, (faiss.IndexNSG, faiss.IndexNNDescent)):
        step = len(matrix)  # they take all rows in one call
    elif isinstance(inner, faiss.IndexHNSW):
        _reserve_graph(faiss, inner, len(matrix))
        step = _GRAPH_BLOCK_ROWS
    elif hasattr(inner, "codes"):
        _reserve(inner.codes, len(matrix) * inner.sa_code_size())
    for first in range(0, len(matrix), step):
        index.add(np.ascontiguousarray(matrix[first : first + step]))
        progress(ADDING, min(first + step, len(matrix)), len(matrix))


def _reserve_graph(faiss: Any, graph: Any, count: int) -> None:
    """Links above the ground layer are drawn: a few percent more than their mean, 1 / (M - 1) rows' worth of them, is enough."""
    ground, above = graph.hnsw.nb_neighbors(0), graph.hnsw.nb_neighbors(1)
    _reserve(graph.hnsw.neighbors, int(count * (ground + 1.1 * above / max(above - 1, 1))) + 64 * above)
    _reserve(graph.hnsw.offsets, count + 1, keep=1)
    _reserve(graph.hnsw.levels, count)
    storage = faiss.downcast_index(graph.storage)
    if hasattr(storage, "codes"):
        _reserve(storage.codes, count * storage.sa_code_size())


def _reserve(vector: Any, size: int, keep: int = 0) -> None:
    vector.resize(size)
    vector.resize(keep)  # keeps what was reserved


def _fill_lists(faiss: Any, index: Any, ivf: Any, matrix: Matrix, progress: Progress) -> None:
    """Assigns all rows to lists, sizes these, then adds: each is half of the work."""
    chain = index if isinstance(index, faiss.IndexPreTransform) else None
    lists = np.empty(len(matrix), dtype=np.int32)
    for first in range(0, len(matrix), BLOCK_ROWS):
        lists[first : first + BLOCK_ROWS] = ivf.quantizer.assign(_transformed(faiss, chain, matrix, first), 1)[:, 0]
        progress(ADDING, min(first + BLOCK_ROWS, len(matrix)) // 2, len(matrix))
    held = faiss.downcast_InvertedLists(ivf.invlists)
    for number, size in enumerate(np.bincount(lists, minlength=ivf.nlist).tolist()):
        _reserve_list(held, number, size)
    for first in range(0, len(matrix), BLOCK_ROWS):
        rows = _transformed(faiss, chain, matrix, first)
        listed = lists[first : first + BLOCK_ROWS].astype(np.int64)
        faiss.downcast_index(ivf).add_core(len(rows), faiss.swig_ptr(rows), None, faiss.swig_ptr(listed))
        progress(ADDING, (len(matrix) + min(first + BLOCK_ROWS, len(matrix))) // 2, len(matrix))
    index.ntotal = ivf.ntotal


def _reserve_list(lists: Any, number: int, size: int) -> None:
    lists.resize(number, size)
    lists.resize(number, 0)  # keeps what was reserved


def _transformed(faiss: Any, chain: Any, matrix: Matrix, first: int) -> Matrix:
    rows = np.ascontiguousarray(matrix[first : first + BLOCK_ROWS])
    if chain is None:
        return rows
    for number in range(chain.chain.size()):
        rows = faiss.downcast_VectorTransform(chain.chain.at(number)).apply(rows)
    return rows


def _calibrated(index: Any, matrix: Matrix, held: NDArray[np.int64], plan: Plan) -> Tried:
    """The effort and the number of candidates that find what is wanted of the held-out rows, at the least cost."""
    parameter = effort_of(index)
    asked = asked_of(np.ascontiguousarray(matrix[held]), held, blocks_of(matrix))
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
