"""Whether the rows of an index are those that an encoder gives its passages: some of them are encoded again.

The weights of a model say much of which it is, its other files the rest. But a library that saves a model again may write these
anew and mean the same, and a build may have mixed two models. So what decides, where rows are kept, is a look at rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import IndexDamaged, ModelUnusable
from .index_types import HNSW
from .manifest import FLAT
from .model_settings import changed
from .passage import encoded_text
from .store import Index

if TYPE_CHECKING:
    from .encoder import Encoder

SAME_PASSAGE = 0.02
"""How far the cosine of a passage with its own row may be below 1, and the quotient of their lengths from 1: another processor
moves its vector a little."""

_NEAR = 64
"""Passages at either end among which the shortest is looked at: it takes no longer than a query, whatever others hold."""


def check_own_rows(index: Index, encoder: Encoder) -> None:
    """A short passage near either end, encoded again, has the row that is kept of it: where a build has mixed two models one of
    them has not. Where only codes are kept the files of the model must be those that it was built with.

    Raises `IndexDamaged`, or `ModelUnusable` where such files differ.
    """
    kept, differing = kept_rows(index), differing_files(index, encoder)
    if kept is None:
        if differing:
            raise ModelUnusable(_another_model(index, encoder, differing))
        return
    far = far_apart(index, encoder)
    rows = sorted({_shortest(index, 0), _shortest(index, max(0, index.count - _NEAR))})
    passages = [index.passages.get(row) for row in rows]
    for passage, stored in zip(passages, kept(rows), strict=True):
        (vector,) = encoded_again(index, encoder, [passage])  # one at a time: what a worker can hold at once is not tried here
        if is_own(vector, stored, far):
            continue
        if differing:
            raise ModelUnusable(_another_model(index, encoder, differing))
        raise IndexDamaged(
            f"the index {index.path} holds another row of its passage {passage['id']!r} than the model {encoder.model} gives "
            f"here (cosine {_cosine(vector, stored):.3f}; {encoder.dtype} here, {index.manifest.dtype} there): build it again"
        )


def differing_files(index: Index, encoder: Encoder) -> list[str]:
    """Names of the model's files, weights aside, that are not as they were when the index was built; none where a version built
    it that did not look."""
    before = index.manifest.model.settings
    return changed(before, encoder.settings) if before else []


def encoded_again(index: Index, encoder: Encoder, passages: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
    """The vectors of passages of the index, float32 (n, dim)."""
    texts = [encoded_text(passage["title"], passage["text"], index.manifest.corpus.encode) for passage in passages]
    return encoder.encode(texts, "passage").vectors


def far_apart(index: Index, encoder: Encoder) -> float:
    """How far apart two vectors of length 1 of the same text may be, for the dtypes of both."""
    from .backends import ERROR_MAX

    return sum(ERROR_MAX.get(dtype, 0.0) for dtype in (index.manifest.dtype, encoder.dtype))


def below_one(far: float) -> float:
    """How far below 1 the product of two vectors of length 1 may be that are `far` apart."""
    return max(SAME_PASSAGE, far**2 / 2)


def is_own(vector: NDArray[np.floating[Any]], stored: NDArray[np.floating[Any]], far: float) -> bool:
    """Whether `vector` is `stored`, as far as their dtypes let it be: by their angle, and by their lengths, not always 1."""
    lengths = float(np.linalg.norm(vector)), float(np.linalg.norm(stored))
    if not all(lengths):
        return lengths == (0.0, 0.0)
    alike = _cosine(vector, stored) >= 1 - below_one(far)
    return bool(alike and abs(lengths[0] / lengths[1] - 1) <= max(SAME_PASSAGE, far))


def kept_rows(index: Index) -> Callable[[Sequence[int]], NDArray[np.float64]] | None:
    """What reads rows as they are kept in full or in float16, beside a faiss part or in a graph; None where only codes are."""
    if index.manifest.type == FLAT:
        full = index.vectors.full
        return lambda rows: full[list(rows)].astype(np.float64)
    refine = index.part.refine
    if refine is not None:
        return lambda rows: refine[list(rows)].astype(np.float64)
    if index.manifest.type != HNSW:
        return None
    from .faiss_engine import read_part

    part = read_part(index)
    return lambda rows: np.stack([part.reconstruct(row) for row in rows]).astype(np.float64)


def _shortest(index: Index, first: int) -> int:
    return min(range(first, min(first + _NEAR, index.count)), key=index.passages.size)


def _cosine(vector: NDArray[np.floating[Any]], stored: NDArray[np.floating[Any]]) -> float:
    exact, other = vector.astype(np.float64), stored.astype(np.float64)
    return float(exact @ other / (np.linalg.norm(exact) * np.linalg.norm(other)))


def _another_model(index: Index, encoder: Encoder, differing: Sequence[str]) -> str:
    return (
        f"the index {index.path} was built with the model {index.manifest.model.name}, and {encoder.model} is another one here: "
        f"of the same weights, but {' and '.join(differing)} {'differ' if len(differing) > 1 else 'differs'}"
    )
