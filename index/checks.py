"""Checks an index beyond what opening it does: every byte, every passage, the model, and passages that must find themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..conf.devices import CPU
from .errors import IndexDamaged
from .manifest import FLAT, HalfNorms
from .own_rows import below_one, check_own_rows, differing_files, encoded_again, far_apart, is_own, kept_rows
from .store import Index, open_index
from .vectors import from_bfloat16, to_bfloat16
from .verify import Check, verify_files

_CHUNK_ROWS = 4_096
_LOOKED_AT = 10
_LOOKED_UP = 16
"""Passages that are encoded again, and results that are looked at for each."""


def verify_passages(index: Index) -> Check:
    """Every passage is a map, and is found by its id. Raises `IndexDamaged`."""
    store = index.passages
    for first in range(0, store.count, _CHUNK_ROWS):
        rows = range(first, min(first + _CHUNK_ROWS, store.count))
        ids = [store.get(row)["id"] for row in rows]
        for row, id_ in zip(rows, ids, strict=True):
            if store.find(id_) != row:
                raise IndexDamaged(f"the index {index.path} is damaged: the passage {id_!r} is not found by its id")
    return Check("passages", f"{store.count} passages, each found by its id")


def verify_vectors(index: Index) -> Check:
    """The rows are whole, by the type of the index. Raises `IndexDamaged`."""
    if index.manifest.type == FLAT:
        _verify_flat(index)
        return Check("vectors", f"{index.count} x {index.dim}")
    _verify_part(index)
    return Check("vectors", f"{index.count} x {index.dim} in {index.manifest.factory}")


def _verify_flat(index: Index) -> None:
    """Every row is finite, equals its half-precision copy as far as that goes, and keeps the norms in the manifest."""
    vectors, norms = index.vectors, index.manifest.norms
    for first in range(0, vectors.count, _CHUNK_ROWS):
        full = np.ascontiguousarray(vectors.full[first : first + _CHUNK_ROWS])
        half = vectors.half[first : first + _CHUNK_ROWS]
        if not np.isfinite(full).all() or not np.array_equal(to_bfloat16(full), half) or not _within(full, half, norms):
            raise IndexDamaged(f"the index {index.path} is damaged: a vector from row {first} on does not fit its copy or norms")


def _verify_part(index: Index) -> None:
    """faiss reads its part, which holds as many rows of as many values as the manifest says, each of them once; float16 rows are
    finite and keep the norms in the manifest."""
    from .faiss_engine import read_part
    from .faiss_files import listed_rows

    listed = listed_rows(read_part(index))
    if listed is not None and not np.array_equal(np.sort(listed), np.arange(index.count)):
        raise IndexDamaged(f"the index {index.path} is damaged: its faiss part does not list every row once")
    refine, norms = index.part.refine, index.manifest.norms
    if refine is None:
        return
    for first in range(0, index.count, _CHUNK_ROWS):
        rows = np.asarray(refine[first : first + _CHUNK_ROWS], dtype=np.float64)
        if not np.isfinite(rows).all() or float(np.linalg.norm(rows, axis=1).max()) > norms.half_max:
            raise IndexDamaged(f"the index {index.path} is damaged: a vector from row {first} on does not fit its norms")


def _within(full: NDArray[np.float32], half: NDArray[np.uint16], norms: HalfNorms) -> bool:
    exact, rounded = full.astype(np.float64), from_bfloat16(half).astype(np.float64)
    largest = [float(np.linalg.norm(rows, axis=1).max()) for rows in (rounded, exact - rounded, exact)]
    return all(found <= bound for found, bound in zip(largest, (norms.half_max, norms.error_max, norms.full_max), strict=True))


def verify_search(index: Index, device: str = CPU, model: str = "") -> Check:
    """The model is the one the index was built with, and passages, encoded again on `device`, find themselves: the one in the
    middle, and some at equal distances. They are searched for on cpu, which searches every type, and needs no copy of the index.

    Where rows are kept as they were encoded, or in float16, each one must be that of its passage. Where only codes of them are,
    most must be nearer to theirs than to those of the other passages. The search must return most of them, or rows that score
    as well: equal texts, neighbours that codes do not tell apart, and a row that a graph does not lead to are not damage.
    Raises `ModelUnusable`, `DeviceUnavailable` or `IndexDamaged`.
    """
    from .encoder import load_index_encoder
    from .engine import load_engine

    encoder = load_index_encoder(index.manifest, device, model=model)
    if differing_files(index, encoder):
        check_own_rows(index, encoder)
    rows = _spread(index.count)
    passages = [index.passages.get(row) for row in rows]
    vectors = encoded_again(index, encoder, passages)
    scores, found = load_engine(index, CPU).search(vectors, _LOOKED_AT)
    looks = _compared(index, rows, vectors, scores, found, far_apart(index, encoder))
    own = [look.own for look in looks]
    if not (all if kept_rows(index) is not None else _most)(own) or not _most([look.found for look in looks]):
        wrong = next(passage for passage, look in zip(passages, looks, strict=True) if not (look.own and look.found))
        raise IndexDamaged(f"the index {index.path} does not find its passage {wrong['id']!r} by its own text")
    first, name = f"{passages[0]['id']!r} finds itself", index.manifest.model.name
    return Check("search", f"{first} with {name}, score {looks[0].score:.4f}; looked at {len(rows)} passages")


@dataclass(frozen=True, slots=True)
class _Look:
    """`own`: the row belongs to its passage. `found`: the search returned it, or rows that score as well. `score`: its own."""

    own: bool
    found: bool
    score: float


def _compared(
    index: Index,
    rows: Sequence[int],
    vectors: NDArray[np.float32],
    scores: NDArray[np.float32],
    found: NDArray[np.int64],
    far: float,
) -> list[_Look]:
    kept = kept_rows(index)
    stored, queries = (kept(rows), vectors.astype(np.float64)) if kept is not None else _decoded(index, rows, vectors)
    if stored is None:
        ends = [(float(line[0]), float(line[-1])) for line in scores]
        there = [row in line or best == last for row, line, (best, last) in zip(rows, found.tolist(), ends, strict=True)]
        return [_Look(True, is_there, best) for is_there, (best, _) in zip(there, ends, strict=True)]
    products, squares = queries @ stored.T, np.einsum("nd,nd->n", stored, stored)
    nearness = products / np.maximum(np.sqrt(squares), np.finfo(np.float64).tiny)
    looks = []
    for at, row in enumerate(rows):
        score, square = float(products[at, at]), float(squares[at])
        own = is_own(queries[at], stored[at], far) if kept is not None else nearness[at, at] >= nearness[at].max()
        returned = row in found[at] or score <= float(scores[at, -1]) + below_one(far) * square
        looks.append(_Look(bool(own and np.isfinite(score)), returned, score))
    return looks


def _spread(count: int) -> list[int]:
    """The row in the middle, then some at equal distances."""
    some = min(count, _LOOKED_UP)
    return list(dict.fromkeys([count // 2, *(count * number // some for number in range(some))]))


def _most(truths: Sequence[bool]) -> bool:
    return 2 * sum(truths) > len(truths)


def _decoded(
    index: Index, rows: Sequence[int], vectors: NDArray[np.float32]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """The rows that the codes of a faiss part stand for, None where faiss does not decode them, and the vectors where they are
    compared: behind the transforms."""
    from .faiss_engine import read_part
    from .faiss_files import decoded

    stored, queries = decoded(read_part(index), rows, vectors)
    return (None if stored is None else stored.astype(np.float64)), queries.astype(np.float64)


def verify_all(directory: str | Path, device: str = CPU, model: str = "") -> list[Check]:
    """All checks of the index in `directory`, whose passages are encoded on `device`. Raises what the first that fails raises."""
    with open_index(directory) as index:
        count = Check("manifest", f"version {index.version}, {index.count} passages, {index.dim} dimensions")
        return [
            count,
            verify_files(index),
            verify_passages(index),
            verify_vectors(index),
            verify_search(index, device, model),
        ]
