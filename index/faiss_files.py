"""faiss, loaded only where it is needed; and a faiss index over a mapped file. Never copies what can stay mapped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError, IndexDamaged
from .index_types import COPIES, ID_BYTES, Shape, link_bytes

PROBES = "nprobe"
EF_SEARCH = "efSearch"

_CODED_ROWS = 128
"""Rows that a product quantiser codes at a time: of each it makes a table of all centroids, else of 262,144 at once."""

_BEAMS = ("rq", "lsq", "prq", "plsq")
"""Quantisers that add up what they find, and keep the best few ways to do so of each row."""

_ITQ_COPIES = 8
_BEAM_COPIES = 11
"""Copies of its sample that faiss holds while it trains, where these are more than `COPIES`: of doubles, and of beams."""

LINKS_MIN, LINKS_MAX = 2, 1_024
"""Of a row in a graph: faiss makes none of fewer, or one that leads nowhere; of more, one larger than any rows."""

_LEVELS_MIN = 2
"""Entries of its sums of links where a graph has a level above the ground."""

_ROTATION_CENTROIDS = 256
"""Of each quantiser that OPQ trains for itself, whatever the codes behind it."""


def import_faiss() -> Any:
    """The module. Raises `ConfigurationError` where it is not installed."""
    try:
        import faiss
    except ImportError:
        raise ConfigurationError("this needs faiss: pip install 'ragpool[cpu]', or 'ragpool[gpu]' for CUDA") from None
    options: Any = faiss.cvar
    options.product_quantizer_compute_codes_bs = _CODED_ROWS
    return faiss


def import_faiss_gpu() -> Any:
    """The module, with CUDA in it. Raises `ConfigurationError` where the one that is installed has none."""
    faiss = import_faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        raise ConfigurationError(
            "the installed faiss cannot use CUDA: install ragpool[gpu] in place of ragpool[cpu], choose the engine exact for a "
            "flat index, or keep the index off the device (index.gpu = false)"
        )
    return faiss


def from_factory(factory: str, dim: int) -> Any:
    """An empty index for inner products. Raises `ConfigurationError` for a string that faiss does not take."""
    faiss = import_faiss()
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise ConfigurationError(
            f"faiss makes no index of {factory!r} for {dim} dimensions ({reason(error)}); types are auto, flat, hnsw, "
            "compact, or a factory string of faiss such as IVF1024,SQ8"
        ) from None
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ConfigurationError(f"the faiss index {factory!r} does not search by inner product, which embeddings want")
    links = _links(faiss, innermost(index))
    if links is not None and not LINKS_MIN <= links <= LINKS_MAX:
        raise ConfigurationError(
            f"a graph links each row to {LINKS_MIN} to {LINKS_MAX:,} others, and {factory!r} asks for another number"
        )
    return index


def _links(faiss: Any, inner: Any) -> int | None:
    """To how many others a graph links a row, as its factory string says, 0 where faiss finds no levels for them; None of what is
    no graph."""
    if isinstance(inner, faiss.IndexHNSW):
        return int(inner.hnsw.nb_neighbors(1)) if inner.hnsw.cum_nneighbor_per_level.size() > _LEVELS_MIN else 0
    return int(inner.nsg.R) if isinstance(inner, faiss.IndexNSG) else None


def shape_of(factory: str, dim: int) -> Shape:
    """What an index of `factory` for `dim` dimensions takes and wants, told by an empty one. Raises as `from_factory`."""
    faiss = import_faiss()
    index = from_factory(factory, dim)
    inner = innermost(index)
    ivf = faiss.try_extract_index_ivf(index)
    lists = int(ivf.nlist) if ivf is not None else 0
    graph = isinstance(inner, (faiss.IndexHNSW, faiss.IndexNSG))
    try:
        row_bytes = int((faiss.downcast_index(inner.storage) if graph else index).sa_code_size())
    except RuntimeError:  # it has no codec of its own
        row_bytes = 4 * dim
    if isinstance(inner, faiss.IndexHNSW):
        row_bytes += link_bytes(inner.hnsw.nb_neighbors(0))
    elif graph:
        row_bytes += link_bytes(inner.nsg.R)
    codes = faiss.downcast_index(inner.storage) if graph else faiss.downcast_index(ivf) if ivf is not None else inner
    centroids = 1 << int(codes.pq.nbits) if hasattr(codes, "pq") else 1
    turns = _all_turns(faiss, index)
    sums = next((getattr(codes, name) for name in _BEAMS if hasattr(codes, name)), None)
    beams, books = sums is not None, int(sums.total_codebook_size) if sums is not None else centroids
    least = max(lists, centroids, dim if beams else 1, *(_rows_to_turn(faiss, turn) for turn in turns))
    itq = any(isinstance(turn, faiss.ITQTransform) for turn in turns)
    copies = max(COPIES, _ITQ_COPIES if itq else 0, _BEAM_COPIES if beams else 0)
    return Shape(row_bytes + (ID_BYTES if lists else 0), 4 * dim * (lists + books), lists, least, graph, copies)


def _all_turns(faiss: Any, index: Any) -> list[Any]:
    """All transforms before an index, also behind refinements; the one given must live on."""
    index, found = faiss.downcast_index(index), []
    while isinstance(index, (faiss.IndexPreTransform, faiss.IndexRefine)):
        if isinstance(index, faiss.IndexRefine):
            index = faiss.downcast_index(index.base_index)
            continue
        found += [faiss.downcast_VectorTransform(index.chain.at(number)) for number in range(index.chain.size())]
        index = faiss.downcast_index(index.index)
    return found


def _rows_to_turn(faiss: Any, turn: Any) -> int:
    """The fewest rows that a transform is trained with: with fewer than its values faiss' OPQ writes beyond its memory, and a PCA
    has not so many to give."""
    if isinstance(turn, faiss.OPQMatrix):
        return int(max(turn.d_in, turn.d_out, _ROTATION_CENTROIDS))
    if isinstance(turn, faiss.ITQTransform):
        return int(max(turn.d_in, turn.d_out))
    return int(turn.d_out) if isinstance(turn, faiss.PCAMatrix) else 1


def read_mapped(data: NDArray[np.uint8], where: str) -> Any:
    """The faiss index in the mapped bytes `data`, which must stay as long as it does: the index refers to them.

    Codes of scalar and product quantisers, graphs and inverted lists stay where they are mapped (faiss' zero-copy reader), shared
    by all processes; the blocks of fast-scan lists are copied. Raises `IndexDamaged` for what faiss cannot read.
    """
    faiss = import_faiss()
    try:
        index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(data), data.size))
    except (RuntimeError, MemoryError) as error:
        raise IndexDamaged(f"{where} is no index that faiss can read ({reason(error)})") from None
    index.referenced_objects = [data]
    return index


def effort_of(index: Any) -> str:
    """The parameter that trades speed for recall: PROBES, EF_SEARCH, or "" where there is none."""
    faiss = import_faiss()
    if faiss.try_extract_index_ivf(index) is not None:
        return PROBES
    return EF_SEARCH if isinstance(innermost(index), faiss.IndexHNSW) else ""


def set_effort(index: Any, parameter: str, value: int) -> None:
    """Sets `nprobe` or `efSearch` of an index, also behind transforms and in shards, on the CPU and on CUDA devices."""
    faiss = import_faiss()
    if parameter == PROBES:
        for part in _inverted(faiss, index):
            part.nprobe = value
    elif parameter == EF_SEARCH:
        innermost(index).hnsw.efSearch = value


def quantised_bytes(index: Any) -> int:
    """Of the code that a product quantiser makes of a row, behind transforms and refinements too; 0 where there is none."""
    quantiser = getattr(innermost(index), "pq", None)
    return int(quantiser.code_size) if quantiser is not None else 0


def lists_of(index: Any) -> int:
    """Inverted lists of an index, 0 where it has none."""
    ivf = import_faiss().try_extract_index_ivf(index)
    return int(ivf.nlist) if ivf is not None else 0


def listed_rows(index: Any) -> NDArray[np.int64] | None:
    """The rows that stand in the inverted lists of an index, in the order of the lists; None where there are no lists."""
    faiss = import_faiss()
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return None
    lists = ivf.invlists
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    rows = [faiss.rev_swig_ptr(lists.get_ids(number), size).copy() for number, size in enumerate(sizes) if size]
    return np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)


def _inverted(faiss: Any, index: Any) -> list[Any]:
    """The inverted files in an index. Those of a CUDA device are of a class of their own, which faiss' own search for them on
    the CPU (`try_extract_index_ivf`) does not know."""
    index = innermost(index)
    if isinstance(index, faiss.IndexShards):
        return [part for number in range(index.count()) for part in _inverted(faiss, index.at(number))]
    return [index if hasattr(index, PROBES) else faiss.extract_index_ivf(index)]


def decoded(
    index: Any, rows: Sequence[int], vectors: NDArray[np.float32]
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]]:
    """(the rows that the codes stand for, `vectors`), both behind the transforms of an index, where faiss compares them; None for
    the rows where it does not decode such codes: fast-scan blocks that are mapped it reads beyond their end. Makes the list of
    places that decoding from inverted lists needs."""
    faiss = import_faiss()
    inner = faiss.downcast_index(index)  # refers to `index`, which must live on
    if isinstance(inner, faiss.IndexPreTransform):
        for number in range(inner.chain.size()):
            vectors = faiss.downcast_VectorTransform(inner.chain.at(number)).apply(np.ascontiguousarray(vectors))
        inner = faiss.downcast_index(inner.index)
    ivf = faiss.try_extract_index_ivf(inner)
    if isinstance(faiss.downcast_index(ivf or inner), (faiss.IndexIVFFastScan, faiss.IndexFastScan)):
        return None, vectors
    try:
        if ivf is not None:
            faiss.downcast_index(ivf).make_direct_map()
        return np.stack([inner.reconstruct(int(row)) for row in rows]), vectors
    except (RuntimeError, AttributeError):
        return None, vectors


def innermost(index: Any) -> Any:
    """The index behind transforms and refinements; the one given must live on."""
    faiss = import_faiss()
    index = faiss.downcast_index(index)
    while isinstance(index, (faiss.IndexPreTransform, faiss.IndexRefine)):
        index = faiss.downcast_index(index.index if isinstance(index, faiss.IndexPreTransform) else index.base_index)
    return index


def reason(error: BaseException) -> str:
    """The end of faiss' message: before it stand the function, the file and the line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = re.sub(r"^Error in .* at \S+:\d+: ", "", lines[0]).rsplit("Error: ", 1)[-1]
    return told[:160]
