"""An empty faiss index is trained on a sample of the rows and takes all of them, in memory that is bounded beside the index
itself. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .build_passages import Progress
from .faiss_files import import_faiss, innermost
from .index_types import BLOCK_ROWS, HNSW_EF_CONSTRUCTION, POINTS_PER_CODE, ROTATING_ROWS, rotating_rows
from .vectors import let_go, taken

TRAINING = "training"
ADDING = "adding"

OPQ = (8, 10, 2, ROTATING_ROWS)
"""Rounds, rounds of the first and of every further quantiser, and rows that the rotation is trained with: a tenth of what faiss
takes by itself, for nearly all of the gain (docs/indexes.md)."""

_GRAPH_ROWS = 8_192
"""Rows that a graph takes at a time: each time faiss makes a lock for every row that is there."""

_BY_KMEANS = "\0"
"""`quantizer_trains_alone` of lists whose centroids k-means finds, and their quantiser keeps."""

Matrix = NDArray[np.float32]


def train(index: Any, matrix: Matrix, sample: NDArray[np.int64], seed: int, opq: tuple[int, int, int, int] = OPQ) -> None:
    """Trains an empty `index` on the rows of `matrix` at `sample`, drawing what it draws by `seed`. Fewer rows than its `Shape`
    wants at least may end the process. Raises RuntimeError, MemoryError."""
    faiss = import_faiss()
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.cp.seed = seed % (1 << 31)
        ivf.cp.min_points_per_centroid = 1  # too few points are our business, and said in words
        ivf.cp.max_points_per_centroid = 64
    base = faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index
    turns = _turns(faiss, base)
    index.referenced_objects = [_rotation(faiss, turn, seed, opq) for turn in turns if isinstance(turn, faiss.OPQMatrix)]
    inner = faiss.downcast_index(ivf) if ivf is not None else innermost(index)
    graph = hasattr(inner, "hnsw")
    if graph:
        inner.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
    coded = faiss.downcast_index(inner.storage) if graph else inner
    if hasattr(coded, "pq"):
        coded.pq.cp.seed = seed % (1 << 31)
        coded.pq.cp.min_points_per_centroid = 1
        coded.pq.cp.max_points_per_centroid = POINTS_PER_CODE
    if not index.is_trained:
        _train_behind(faiss, index, matrix, sample, opq[3])


def _rotation(faiss: Any, turn: Any, seed: int, opq: tuple[int, int, int, int]) -> Any:
    """Sets what an OPQ is trained with; the quantiser of its own, which must live as long."""
    turn.niter, turn.niter_pq_0, turn.niter_pq, most = opq
    turn.max_train_points = rotating_rows(turn.d_in, turn.d_out, most)
    turn.pq = codes = faiss.ProductQuantizer(turn.d_out, turn.M, 8)
    codes.cp.min_points_per_centroid, codes.cp.seed = 1, seed % (1 << 31)
    return codes


def _train_behind(faiss: Any, index: Any, matrix: Matrix, sample: NDArray[np.int64], rotating: int) -> None:
    """One transform after the other and then what they stand before, as faiss does it; but of the sample one copy alone is held,
    as it stands behind the transforms, and a rotation takes `rotating` rows of it."""
    turns = _turns(faiss, index)
    for number, turn in enumerate(turns):
        if not turn.is_trained:
            opq = isinstance(turn, faiss.OPQMatrix)
            wanted = rotating_rows(turn.d_in, turn.d_out, rotating) if opq else len(sample)
            turn.train(_turned(turns[:number], matrix, _spread(sample, wanted)))
    inner = faiss.downcast_index(index.index) if turns else index
    if type(inner) is faiss.IndexIVFPQ and inner.by_residual and inner.quantizer_trains_alone == _BY_KMEANS:
        _train_residuals(faiss, inner, turns, matrix, sample)
    elif not inner.is_trained:
        inner.train(_turned(turns, matrix, sample))
    index.is_trained = True


def _train_residuals(faiss: Any, ivf: Any, turns: Sequence[Any], matrix: Matrix, sample: NDArray[np.int64]) -> None:
    """As `IndexIVFPQ.train` does it, with less in hand: rows in bfloat16 train the centroids of the lists, then as many in
    float32 as the codes want become residuals where they stand."""
    codec = faiss.IndexScalarQuantizer(ivf.d, faiss.ScalarQuantizer.QT_bf16)
    coded = np.empty((len(sample), codec.sa_code_size()), dtype=np.uint8)
    for first in range(0, len(sample), BLOCK_ROWS):
        coded[first : first + BLOCK_ROWS] = codec.sa_encode(_turned(turns, matrix, sample[first : first + BLOCK_ROWS]))
    ivf.cp.decode_block_size = BLOCK_ROWS
    faiss.Clustering(ivf.d, ivf.nlist, ivf.cp).train_encoded(coded, codec, ivf.quantizer)
    del coded
    rows = _turned(turns, matrix, _spread(sample, ivf.pq.ksub * ivf.pq.cp.max_points_per_centroid))
    for first in range(0, len(rows), BLOCK_ROWS):
        block = rows[first : first + BLOCK_ROWS]
        block -= ivf.quantizer.reconstruct_batch(ivf.quantizer.assign(block, 1)[:, 0])
    ivf.train_encoder(len(rows), faiss.swig_ptr(rows), None)
    ivf.is_trained = True


def _spread(sample: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` of the sample at even distances, all where it has no more."""
    return sample[np.arange(min(count, len(sample))) * len(sample) // min(count, len(sample))]


def _turns(faiss: Any, index: Any) -> list[Any]:
    """The transforms before an index."""
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    return [faiss.downcast_VectorTransform(index.chain.at(number)) for number in range(index.chain.size())]


def _turned(turns: Sequence[Any], matrix: Matrix, positions: NDArray[np.int64]) -> Matrix:
    """The rows at `positions` behind transforms."""
    rows = np.empty((len(positions), turns[-1].d_out if turns else matrix.shape[1]), dtype=np.float32)
    for first in range(0, len(positions), BLOCK_ROWS):
        rows[first : first + BLOCK_ROWS] = _through(turns, taken(matrix, positions[first : first + BLOCK_ROWS]))
    return rows


def _through(turns: Sequence[Any], rows: Matrix) -> Matrix:
    for turn in turns:
        rows = turn.apply(rows)
    return rows


def fill(index: Any, matrix: Matrix, progress: Progress) -> None:
    """Adds all rows, block by block. What would double as it grows is sized first: codes and links of a graph, and inverted
    lists, which grow each for itself. Raises RuntimeError, MemoryError."""
    faiss = import_faiss()
    progress(ADDING, 0, len(matrix))
    ivf = _own_lists(faiss, index)
    if ivf is not None:
        _fill_lists(faiss, index, ivf, matrix, progress)
        return
    inner = innermost(index)
    step = BLOCK_ROWS
    if isinstance(inner, (faiss.IndexNSG, faiss.IndexNNDescent)):
        step = len(matrix)  # they take all rows in one call
    elif isinstance(inner, faiss.IndexHNSW):
        _reserve_graph(faiss, inner, len(matrix))
        step = _GRAPH_ROWS
    else:
        _reserve_codes(inner, len(matrix))
    if isinstance(index, faiss.IndexRefine):
        _reserve_codes(faiss.downcast_index(index.refine_index), len(matrix))
    for first in range(0, len(matrix), step):
        index.add(np.ascontiguousarray(matrix[first : first + step]))
        let_go(matrix)
        progress(ADDING, min(first + step, len(matrix)), len(matrix))


def _own_lists(faiss: Any, index: Any) -> Any:
    """The inverted file that `index` is, or has right behind its transforms, where its lists can be sized; else None: what keeps
    more of a row than lists do (refinement, row numbers) takes rows by its own `add` alone."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    if not isinstance(inner, faiss.IndexIVF):
        return None
    return inner if isinstance(faiss.downcast_InvertedLists(inner.invlists), faiss.ArrayInvertedLists) else None


def _reserve_graph(faiss: Any, graph: Any, count: int) -> None:
    """Links above the ground layer are drawn: a few percent more than their mean, 1 / (M - 1) rows' worth of them, is enough."""
    ground, above = graph.hnsw.nb_neighbors(0), graph.hnsw.nb_neighbors(1)
    _reserve(graph.hnsw.neighbors, int(count * (ground + 1.1 * above / max(above - 1, 1))) + 64 * above)
    _reserve(graph.hnsw.offsets, count + 1, keep=1)
    _reserve(graph.hnsw.levels, count)
    _reserve_codes(faiss.downcast_index(graph.storage), count)


def _reserve_codes(flat: Any, count: int) -> None:
    if hasattr(flat, "codes"):
        _reserve(flat.codes, count * flat.sa_code_size())


def _reserve(vector: Any, size: int, keep: int = 0) -> None:
    vector.resize(size)
    vector.resize(keep)  # keeps what was reserved


def _fill_lists(faiss: Any, index: Any, ivf: Any, matrix: Matrix, progress: Progress) -> None:
    """Assigns all rows to lists, sizes these, then adds: each is half of the work."""
    turns = _turns(faiss, index)
    lists = np.empty(len(matrix), dtype=np.int32)
    for first in range(0, len(matrix), BLOCK_ROWS):
        lists[first : first + BLOCK_ROWS] = ivf.quantizer.assign(_through(turns, _block(matrix, first)), 1)[:, 0]
        progress(ADDING, min(first + BLOCK_ROWS, len(matrix)) // 2, len(matrix))
    held = faiss.downcast_InvertedLists(ivf.invlists)
    for number, size in enumerate(np.bincount(lists, minlength=ivf.nlist).tolist()):
        _reserve_list(held, number, size)
    for first in range(0, len(matrix), BLOCK_ROWS):
        rows = _through(turns, _block(matrix, first))
        listed = lists[first : first + BLOCK_ROWS].astype(np.int64)
        ivf.add_core(len(rows), faiss.swig_ptr(rows), None, faiss.swig_ptr(listed))
        progress(ADDING, (len(matrix) + min(first + BLOCK_ROWS, len(matrix))) // 2, len(matrix))
    index.ntotal = ivf.ntotal


def _reserve_list(lists: Any, number: int, size: int) -> None:
    lists.resize(number, size)
    lists.resize(number, 0)  # keeps what was reserved


def _block(matrix: Matrix, first: int) -> Matrix:
    rows = np.array(matrix[first : first + BLOCK_ROWS])
    let_go(matrix)
    return rows
