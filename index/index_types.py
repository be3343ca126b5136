"""[P] Which index is made of so many rows: its type, its faiss factory string, and what it will need. Decides; never loads faiss.

`flat` rows are searched exactly. `hnsw` is a graph over float16 rows (Malkov and Yashunin 2016). `compact` keeps
product-quantised residuals of an inverted file (Jégou, Douze and Schmid 2011) and scores its candidates again from float16 rows
on disk. Anything else is a factory string of faiss, built and searched as faiss does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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

HELD_OUT = 256
"""Rows, at most a quarter of all, that calibrate and are not trained on."""

ROTATING_ROWS = 4_096
"""Rows, at most, that train a rotation, of which faiss holds six copies beside them; more where these have many values."""

COPIES = 2
"""Of the rows that train codes, faiss holds their residuals besides."""

POINTS_PER_CODE = 64
"""Rows, at most, that train each centroid of the codes in an inverted file, whose residuals are held besides."""

BLOCK_ROWS = 2_048
"""Rows that are taken in hand at a time: work enough for all threads, and little memory beside the part."""

_SAMPLE_ROWS = 65_536
"""Of a factory string: what faiss itself takes for 256 centroids."""

PQ_SUFFIX = "np"
"""Of codes whose centroids stand in the order in which they were found."""

_FREE_SHARE = 0.5
_LISTS_MAX = 65_536
_POINTS_PER_LIST = 39
"""Below it faiss itself warns that a cluster has too few points to train on."""

_PQ_ROWS_MIN = 512
"""A product quantiser of one byte has 256 centroids, and some rows are held out. The rotation before it wants one for each value
besides: with fewer faiss writes beyond its memory."""

ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """What an empty index of a factory string tells: bytes a row takes, and those whatever the count; its inverted lists; the
    fewest rows that faiss trains it with; whether it is a graph; copies of its sample that faiss holds while it trains. See
    `faiss_files.shape_of`."""

    row_bytes: int
    fixed_bytes: int = 0
    lists: int = 0
    least: int = 1
    graph: bool = False
    copies: int = COPIES


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be built. `factory` for faiss ("Flat" for flat), `part_bytes` an estimate of the faiss part, which must fit in
    memory while it is built (0 for flat), `refine`: float16 rows are kept to score candidates from, `sample_rows` train it, of
    which faiss holds so many `copies`."""

    type: str
    factory: str
    part_bytes: int
    refine: bool
    note: str = ""
    sample_rows: int = 0
    copies: int = COPIES

    def peak_bytes(self, count: int, dim: int) -> int:
        """Memory that its build takes beyond the encoding's, at the most: the part, what trains it, and blocks in which rows are
        transformed and added; before these what a rotation is trained with."""
        if not self.part_bytes:
            return 0
        values = dim * (self._training_rows() + 2 * min(count, BLOCK_ROWS))
        if "OPQ" in self.factory:
            values = max(values, 7 * dim * min(self.sample_rows, rotating_rows(dim, dim)) + 10 * dim * dim)
        return int(PART_PEAK * self.part_bytes) + 4 * values

    def _training_rows(self) -> int:
        """As many rows of float32 are held at once: those of the sample and the copies that faiss makes. The codes of `compact`
        are trained in two steps instead (see `faiss_fill`)."""
        if self.type == COMPACT and self.factory.endswith(PQ_SUFFIX):
            return max(self.sample_rows // 2, min(self.sample_rows, 256 * POINTS_PER_CODE))
        return self.copies * self.sample_rows


def rotating_rows(width: int, turned: int, most: int = ROTATING_ROWS) -> int:
    """Rows, at most, that train a rotation from `width` to `turned` values: with fewer than values faiss writes beyond its
    memory."""
    return max(most, 2 * width, turned)


def plan_index(
    wanted: str,
    bytes_per_vector: int,
    refine: bool,
    count: int,
    dim: int,
    memory_bytes: int,
    shape: Shape | None = None,
    for_cuda: bool = False,
) -> Plan:
    """The index of `count` rows of `dim` values on a host with so much memory free. `shape` is that of a factory string,
    `for_cuda`: where `auto` has the choice it takes what CUDA devices search. Raises `ConfigurationError` where the build does
    not fit in that memory, `bytes_per_vector` cannot be had, or there are too few rows to train with."""
    type_ = _chosen(count, dim, memory_bytes, for_cuda) if wanted == AUTO else wanted
    plan = _planned(type_, bytes_per_vector, refine, count, dim, shape or Shape(4 * dim), memory_bytes)
    check_room(plan, count, dim, memory_bytes)
    return plan


def check_room(plan: Plan, count: int, dim: int, memory_bytes: int) -> None:
    """Raises `ConfigurationError` where a build needs more memory than this."""
    peak = plan.peak_bytes(count, dim)
    if peak > memory_bytes:
        raise ConfigurationError(
            f"an index of type {plan.type} over {count:,} rows needs about {size(peak)} of memory to build, and "
            f"{size(memory_bytes)} are free: build --type compact with fewer --bytes-per-vector, or flat, which needs none"
        )


def _chosen(count: int, dim: int, memory_bytes: int, for_cuda: bool) -> str:
    """Exact while a scan is quick; then the graph, if it leaves half of the memory free; then codes. No graph for CUDA devices,
    which search none."""
    if 2 * count * dim <= FLAT_ROWS_BYTES:
        return FLAT
    if for_cuda:
        return COMPACT
    return HNSW if PART_PEAK * _hnsw_bytes(count, dim) <= _FREE_SHARE * memory_bytes else COMPACT


def _planned(type_: str, bytes_per_vector: int, refine: bool, count: int, dim: int, shape: Shape, memory_bytes: int) -> Plan:
    if type_ == FLAT:
        return Plan(FLAT, "Flat", 0, False)
    if type_ == HNSW:  # over float16 rows: there is nothing to learn from a sample
        return Plan(HNSW, f"HNSW{HNSW_LINKS},SQfp16", _hnsw_bytes(count, dim), False, sample_rows=min(count, 256))
    if type_ == COMPACT:
        return _compact(bytes_per_vector, refine, count, dim)
    plan = Plan(type_, type_, count * shape.row_bytes + shape.fixed_bytes, False, copies=shape.copies)
    return _with_sample(plan, shape, count, dim, memory_bytes)


def _with_sample(plan: Plan, shape: Shape, count: int, dim: int, memory_bytes: int) -> Plan:
    """As many rows as its lists want, of those there are and have room. Raises `ConfigurationError` where faiss wants more."""
    there = trainable(count)
    wanted = min(there, max(_SAMPLE_ROWS, _POINTS_PER_LIST * shape.lists))
    room = (memory_bytes - plan.peak_bytes(count, dim)) // (shape.copies * 4 * dim)
    sample = min(wanted, max(room, shape.least))
    if sample < shape.least:
        raise ConfigurationError(
            f"faiss trains {plan.factory} with {shape.least:,} rows at least, and of {count:,} {there:,} can train it: "
            "take fewer lists or shorter codes, or build --type compact, which goes by the count"
        )
    note = ""
    if shape.lists > 1 and sample < _POINTS_PER_LIST * shape.lists:
        why = f"there is memory for {sample:,} rows" if sample < wanted else f"{sample:,} rows are there to train with"
        note = f"{why}, {sample / shape.lists:.1f} for each of {shape.lists:,} lists; they want {_POINTS_PER_LIST}"
    return replace(plan, sample_rows=sample, note=note)


def trainable(count: int) -> int:
    """How many of `count` rows are not held out."""
    return count - min(HELD_OUT, count // 4)


def _compact(bytes_per_vector: int, refine: bool, count: int, dim: int) -> Plan:
    if bytes_per_vector > dim:
        raise ConfigurationError(
            f"a compact index of {dim} dimensions takes at most {dim} bytes a vector, not {bytes_per_vector}: for more precision "
            "build --type hnsw or flat"
        )
    lists = lists_for(count)
    sample = min(count, max(10_000, _POINTS_PER_LIST * lists))
    if count < _PQ_ROWS_MIN or trainable(count) < dim:
        note = f"{count:,} rows are too few to train a product quantiser on: each value is kept in 8 bits instead"
        return Plan(COMPACT, "SQ8", count * dim, refine, note, sample)
    if bytes_per_vector == dim:
        return Plan(COMPACT, f"IVF{lists},SQ8", count * (dim + ID_BYTES) + 4 * lists * dim, refine, sample_rows=sample)
    codes = _quantisers(bytes_per_vector, dim)
    width = dim // codes * codes
    part = count * (codes + ID_BYTES) + 4 * width * (lists + 256 + dim)
    return Plan(COMPACT, f"OPQ{codes}_{width},IVF{lists},PQ{codes}{PQ_SUFFIX}", part, refine, sample_rows=sample)


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


def _hnsw_bytes(count: int, dim: int) -> int:
    """Float16 rows, 2 M links of the ground layer and about M / ln M above it, and what the graph keeps of a row."""
    return count * (2 * dim + link_bytes(2 * HNSW_LINKS))


def link_bytes(links: int) -> int:
    """Of a row in a graph with so many links in its ground layer."""
    return 4 * (links + 2) + 12


def size(count: float) -> str:
    """Bytes in words."""
    for unit, bytes_ in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= bytes_:
            return f"{count / bytes_:.2f} {unit}"
    return f"{count / 1024:.1f} KiB"
