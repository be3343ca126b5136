"""What becomes of the encoded rows: the vector files of an index type. The build hashes, seals and publishes what is made here.

Called once all rows are encoded, and again from the start where a build was killed on the way: the same rows, plan and seed make
the same files (those of faiss bit by bit on one thread only).
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .build_passages import Progress
from .index_types import AUTO, COMPACT, HNSW, Plan, Shape, check_room, plan_index, size
from .manifest import FLAT, HalfNorms, SearchFacts
from .placement import memory_free
from .vectors import FULL, HALF, HALF_DTYPE, PART, REFINE, REFINE_DTYPE, EncodedRows, write_rounded

MEASURED_ROWS = 65_536
"""Rows of a flat index that its build searches at most."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The type that was asked for. `seed` draws the sample of a type that is trained, `threads` is what it may use: both are
    recorded with the build. `refine`: a compact index keeps float16 rows to score its candidates from. `for_cuda`: CUDA devices
    are to search it."""

    type: str
    bytes_per_vector: int
    seed: int
    threads: int
    refine: bool = True
    for_cuda: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """`widths`: for each file of the index, by its name in the folder, the values in a row, 0 where it has no rows. The others go
    into the manifest. A file that is not named here, the encoded rows among them, does not become part of the index."""

    type: str
    factory: str
    norms: HalfNorms
    widths: Mapping[str, int]
    search: SearchFacts


def check_type(type_: str, bytes_per_vector: int, dim: int) -> None:
    """Raises `ConfigurationError` for a type that cannot be built of rows of `dim` values, before anything is read. A factory
    string is tried on a few rows."""
    if type_ in (AUTO, FLAT):
        return
    factory = plan_index(type_, bytes_per_vector, True, 1, dim, sys.maxsize).factory
    from .faiss_files import from_factory

    from_factory(factory, dim)
    if type_ not in (HNSW, COMPACT):
        from .faiss_trial import check_factory

        check_factory(factory, dim)


def plan_for(wanted: Wanted, count: int, dim: int, known: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """What will be made, and the record of it. A record of the same wish, `known`, decides: what `auto` takes and how many rows
    train depend on the memory that was free then. Raises `ConfigurationError` where it does not fit what is free now,
    cannot be made of so many rows, or faiss is missing that makes it."""
    wish = {**dataclasses.asdict(wanted), "count": count, "dim": dim}
    if known.get("wish") == wish:
        with contextlib.suppress(KeyError, TypeError):
            plan = Plan(**known["plan"])
            check_room(plan, count, dim, memory_free())
            return plan, dict(known)
    own = wanted.type not in (AUTO, FLAT, HNSW, COMPACT)
    shape = _shape_of(wanted.type, dim) if own else None
    given = (wanted.type, wanted.bytes_per_vector, wanted.refine, count, dim, memory_free())
    plan = plan_index(*given, shape, wanted.for_cuda)
    if plan.type != FLAT:
        from .faiss_files import import_faiss

        import_faiss()
    return plan, {"wish": wish, "plan": dataclasses.asdict(plan)}


def announce(plan: Plan, wanted: Wanted, count: int, dim: int, tell: Callable[[str], None]) -> None:
    """Says what will be made and what it takes, before anything is encoded."""
    if plan.note:
        tell(plan.note)
    if not plan.part_bytes:
        return
    tell(
        f"the index will be of type {plan.type} ({plan.factory}): its faiss part needs about {size(plan.part_bytes)}, "
        f"and up to {size(plan.peak_bytes(count, dim))} of memory while it is built"
    )
    if wanted.threads > 1 and _shape_of(plan.factory, dim).graph:
        tell(f"{wanted.threads} threads build a graph whose bytes, and version, differ each time; one core repeats them")


def make_vector_files(rows: EncodedRows, plan: Plan, wanted: Wanted, folder: Path, progress: Progress) -> Made:
    """Makes the files of the plan in `folder`, where `rows` are the file `f32` already. Overwrites what is left there."""
    if plan.type == FLAT:
        norms = write_rounded(rows, folder / HALF, HALF_DTYPE)
        return Made(FLAT, "Flat", norms, {FULL: rows.dim, HALF: rows.dim}, _measured_flat(rows, folder, norms, wanted))
    from .faiss_part import NO_NORMS, make_part

    search = make_part(rows.map(), plan, wanted.seed, wanted.threads, folder, progress)
    norms, widths = NO_NORMS, {PART: 0}
    if plan.refine:
        norms, widths = write_rounded(rows, folder / REFINE, REFINE_DTYPE), {PART: 0, REFINE: rows.dim}
    return Made(plan.type, plan.factory, norms, widths, _measured_part(rows, folder, search, plan))


def _shape_of(factory: str, dim: int) -> Shape:
    from .faiss_files import shape_of

    return shape_of(factory, dim)


def _measured_flat(rows: EncodedRows, folder: Path, norms: HalfNorms, wanted: Wanted) -> SearchFacts:
    """Over `MEASURED_ROWS` at most, the rate in proportion: a scan of all would hold all pages of the rows at once."""
    from .exact import engine_on_cpu
    from .faiss_part import measured

    count = min(rows.count, MEASURED_ROWS)
    full = rows.map()[:count]
    half = np.memmap(folder / HALF, dtype="<u2", mode="r", shape=(count, rows.dim))
    recall, rate = measured(engine_on_cpu(full, half, norms), full, wanted.seed, wanted.threads)
    note = f"measured over its first {count:,} rows" if count < rows.count else ""
    return SearchFacts(recall_at_10=recall, queries_per_s=rate * count / rows.count, threads=wanted.threads, note=note)


def _measured_part(rows: EncodedRows, folder: Path, search: SearchFacts, plan: Plan) -> SearchFacts:
    from .faiss_engine import engine_of
    from .faiss_part import measured

    part = np.memmap(folder / PART, dtype=np.uint8, mode="r")
    refine = np.memmap(folder / REFINE, dtype="<f2", mode="r", shape=(rows.count, rows.dim)) if plan.refine else None
    recall, rate = measured(engine_of(part, refine, search, str(folder)), rows.map(), search.seed, search.threads)
    return dataclasses.replace(search, recall_at_10=recall, queries_per_s=rate)
