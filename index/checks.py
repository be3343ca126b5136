"""Checks an index beyond what opening it does: every byte, every passage, the model, and one passage that must find itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import IndexDamaged
from .manifest import FLAT, HalfNorms
from .passage import encoded_text
from .store import Index, open_index
from .vectors import from_bfloat16, to_bfloat16
from .verify import Check, verify_files

_CHUNK_ROWS = 4_096
_LOOKED_AT = 10
"""A passage may stand behind others: equal texts, or neighbours where codes are coarse."""

_SAME_PASSAGE = 0.02
"""How far the score of a passage for itself may be off: another dtype or processor moves its vector a little."""


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


def verify_search(index: Index, device: str = "cpu", model: str = "") -> Check:
    """The model is the one the index was built with, and the passage in the middle, encoded again, finds itself.

    Raises `ModelUnusable`, `DeviceUnavailable` or `IndexDamaged`.
    """
    from .encoder import load_index_encoder
    from .engine import load_engine

    encoder = load_index_encoder(index.manifest, device, model=model)
    row = index.count // 2
    passage = index.passages.get(row)
    text = encoded_text(passage["title"], passage["text"], index.manifest.corpus.encode)
    vector = encoder.encode([text], "passage").vectors
    scores, rows = load_engine(index, device).search(vector, _LOOKED_AT)
    best, stored = float(scores[0, 0]), _stored(index, row)
    if stored is None:
        own, square = best, float(np.linalg.norm(vector[0].astype(np.float64))) ** 2
        found = row in rows[0]
    else:
        own, square = float(stored @ vector[0].astype(np.float64)), float(np.linalg.norm(stored)) ** 2
        found = abs(own - square) <= _SAME_PASSAGE * square and own >= best - _SAME_PASSAGE * square
        found = found and (row in rows[0] or own <= float(scores[0, -1]) + _SAME_PASSAGE * square)
    if not found:
        raise IndexDamaged(f"the index {index.path} does not find its passage {passage['id']!r} by its own text")
    return Check("search", f"{passage['id']!r} finds itself with {index.manifest.model.name}, score {own:.4f}")


def _stored(index: Index, row: int) -> NDArray[np.float64] | None:
    """The row as it is kept in full or in float16, where it is."""
    if index.manifest.type == FLAT:
        kept: NDArray[np.float64] = index.vectors.full[row].astype(np.float64)
        return kept
    return index.part.refine[row].astype(np.float64) if index.part.refine is not None else None


def verify_all(directory: str | Path, device: str = "cpu", model: str = "") -> list[Check]:
    """All checks of the index in `directory`. Raises what the first one that fails raises."""
    with open_index(directory) as index:
        count = Check("manifest", f"version {index.version}, {index.count} passages, {index.dim} dimensions")
        return [
            count,
            verify_files(index),
            verify_passages(index),
            verify_vectors(index),
            verify_search(index, device, model),
        ]
