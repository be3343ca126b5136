"""A double of the encoder where the vectors do not matter. Imports no torch: processes with it start at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from ragpool.index.build import BuildOptions
from ragpool.index.models import Prefixes


@dataclass(frozen=True)
class Hashed:
    vectors: np.ndarray
    tokens: list[int]
    truncated: list[bool]


class HashingEncoder:
    """Vectors that depend on nothing but the text: quick, and different for every text."""

    model, fingerprint, dim, max_length = "hashing", "ab" * 32, 16, 64
    settings: ClassVar[dict[str, str]] = {}
    device, dtype, backend, normalize = "cpu", "float32", "double", True

    def __init__(self, options: BuildOptions) -> None:
        self.prefixes = Prefixes(options.query_prefix or "", options.passage_prefix or "")

    def encode(self, texts: Sequence[str], kind: str = "query") -> Hashed:
        rows = [np.frombuffer(hashlib.shake_128(text.encode()).digest(self.dim), np.uint8) - 127.5 for text in texts]
        vectors = np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32).reshape(-1, self.dim)
        lengths = [len(text.split()) for text in texts]
        return Hashed(
            vectors, [min(length, self.max_length) for length in lengths], [length > self.max_length for length in lengths]
        )
