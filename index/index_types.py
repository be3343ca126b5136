"""[P] Which index is made of so many rows: its type, its faiss factory string, and what it will need. Decides; never loads faiss.

`flat` rows are searched exactly. `hnsw` is a graph over float16 rows (Malkov and Yashunin 2016). `compact` keeps
product-quantised residuals of an inverted file (Jégou, Douze and Schmid 2011) and scores its candidates again from float16 rows
on disk. Anything else is a factory string of faiss, built and searched as faiss does.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigurationError
from .manifest import FLAT

AUTO = "auto"
HNSW = "hnsw"
COMPACT = "compact"

BYTES_PER_VECTOR = 32
FLAT_ROWS_BYTES = 1 << 30
"""Half-precision rows up to this are scanned in tens of milliseconds by one core, and at once by a GPU: `auto` stays exact."""

HNSW_LINKS = 32
HNSW_EF_CONSTRUCTION = 200
"""M and efConstruction as hnswlib's own documentation suggests for high recall; both in the manifest's factory and docs."""

PART_PEAK = 1.3
"""Peak of a build's memory beyond the encoding's, in sizes of the finished faiss part."""

_FREE_SHARE = 0.5
_LISTS_MAX = 65_536
_POINTS_PER_LIST = 39
"""Below it faiss itself warns that a cluster has too few points to train on."""

_PQ_ROWS_MIN = 512
"""A product quantiser of one byte has 256 centroids, and some rows are held out."""

_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be built. `factory` for faiss ("Flat" for flat), `part_bytes` an estimate of the faiss part, which must fit in
    memory while it is built (0 for flat), `refine`: float16 rows are kept to score candidates from."""

    type: str
    factory: str
    part_bytes: int
    refine: bool
    note: str = ""


def plan_index(wanted: str, bytes_per_vector: int, refine: bool, count: int, dim: int, memory_bytes: int) -> Plan:
    """The index of `count` rows of `dim` values on a host with so much memory free. Raises `ConfigurationError` where the
    finished part would not fit in it while it is built, or `bytes_per_vector` cannot be had."""
    plan = _planned(_chosen(count, dim, memory_bytes) if wanted == AUTO else wanted, bytes_per_vector, refine, count, dim)
    peak = int(PART_PEAK * plan.part_bytes)
    if peak > memory_bytes:
        raise ConfigurationError(
            f"an index of type {plan.type} over {count:,} rows needs about {size(peak)} of memory to build, and "
            f"{size(memory_bytes)} "
            f"are free: build --type compact with fewer --bytes-per-vector, or flat, which needs none"
        )
    return plan


def _chosen(count: int, dim: int, memory_bytes: int) -> str:
    """Exact while a scan is quick; then the graph, if it leaves half of the memory free; then codes."""
    if 2 * count * dim <= FLAT_ROWS_BYTES:
        return FLAT
    return HNSW if PART_PEAK * _hnsw_bytes(count, dim) <= _FREE_SHARE * memory_bytes else COMPACT


def _planned(type_: str, bytes_per_vector: int, refine: bool, count: int, dim: int) -> Plan:
    if type_ == FLAT:
        return Plan(FLAT, "Flat", 0, False)
    if type_ == HNSW:
        return Plan(HNSW, f"HNSW{HNSW_LINKS},SQfp16", _hnsw_bytes(count, dim), False)
    if type_ == COMPACT:
        return _compact(bytes_per_vector, refine, count, dim)
    return Plan(type_, type_, 4 * dim * count, False)


def _compact(bytes_per_vector: int, refine: bool, count: int, dim: int) -> Plan:
    if bytes_per_vector > dim:
        raise ConfigurationError(
            f"a compact index of {dim} dimensions takes at most {dim} bytes a vector, not {bytes_per_vector}: for more precision "
            "build --type hnsw or flat"
        )
    if count < _PQ_ROWS_MIN:
        note = f"{count:,} rows are too few to train a product quantiser on: each value is kept in 8 bits instead"
        return Plan(COMPACT, "SQ8", count * dim, refine, note)
    lists = lists_for(count)
    if bytes_per_vector == dim:
        return Plan(COMPACT, f"IVF{lists},SQ8", count * (dim + _ID_BYTES) + 4 * lists * dim, refine)
    codes = _quantisers(bytes_per_vector, dim)
    width = dim // codes * codes
    tables = 4 * width * (lists + 256 + dim)
    return Plan(COMPACT, f"OPQ{codes}_{width},IVF{lists},PQ{codes}np", count * (codes + _ID_BYTES) + tables, refine)


def _quantisers(bytes_per_vector: int, dim: int) -> int:
    """Product quantisers of one byte each, as many as there is room for. Each takes the same number of dimensions, and the
    rotation before them (OPQ, Ge et al. 2013) may drop the few that are left over, but no more than a tenth."""
    return max(n for n in range(1, bytes_per_vector + 1) if 10 * (dim // n * n) >= 9 * dim)


def lists_for(count: int) -> int:
    """Lists of an inverted file: a power of two near sqrt(count), each with points enough to be trained on."""
    lists = 1
    while lists < _LISTS_MAX and (2 * lists) ** 2 <= 2 * count and 2 * lists * _POINTS_PER_LIST <= count:
        lists *= 2
    return lists


def sample_rows(plan: Plan, count: int) -> int:
    """Rows to train on: what the clusters want, and no more than that, since the sample stands in memory. A graph over float16
    rows has nothing to learn from them."""
    if plan.type == HNSW:
        return min(count, 256)
    wanted = max(10_000, _POINTS_PER_LIST * lists_for(count)) if plan.type == COMPACT else 65_536
    return min(count, wanted)


def _hnsw_bytes(count: int, dim: int) -> int:
    """Float16 rows, 2 M links of the ground layer and about M / ln M above it, and what the graph keeps of a row."""
    return count * (2 * dim + 4 * (2 * HNSW_LINKS + 2) + 12)


def size(count: float) -> str:
    """Bytes in words."""
    for unit, bytes_ in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= bytes_:
            return f"{count / bytes_:.2f} {unit}"
    return f"{count / 1024:.1f} KiB"
