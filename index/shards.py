"""One shard of a build: a fixed range of passages becomes rows at a fixed place of one file. Run where an encoder is.

The rows are a function of the shard, the encoder and its threads alone: it matters to nobody who encodes which shard, or when.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..wire import codec
from .build_state import EncodedShard
from .errors import ModelUnusable
from .passage import encoded_text
from .passages import OFFSETS, ROWS
from .vectors import FULL

if TYPE_CHECKING:
    from .encoder import Encoder

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Work:
    """`count` passages in `folder`, their rows of `dim` values going to the file `f32` there, `shard_rows` at a time."""

    folder: str
    count: int
    dim: int
    shard_rows: int
    encode: str

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard_rows)

    def rows(self, shard: int) -> range:
        first = shard * self.shard_rows
        return range(first, min(first + self.shard_rows, self.count))


def prepare(work: Work) -> None:
    """The file of all rows, in its full size. What is in it already stays."""
    descriptor = os.open(Path(work.folder, FULL), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(descriptor, 4 * work.dim * work.count)
    finally:
        os.close(descriptor)


def encode_shard(encoder: Encoder, work: Work, shard: int) -> EncodedShard:
    """Encodes a shard; when this returns its rows are on disk. Raises `ModelUnusable`."""
    rows = work.rows(shard)
    encoded = encoder.encode(read_texts(work, rows), "passage")
    vectors = encoded.vectors
    if vectors.shape != (len(rows), work.dim) or not np.isfinite(vectors).all():
        raise ModelUnusable(f"the model {encoder.model} gives no row of {work.dim} finite values for each text")
    data = memoryview(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
    written = 0
    descriptor = os.open(Path(work.folder, FULL), os.O_WRONLY | os.O_CLOEXEC)
    try:
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], 4 * work.dim * rows.start + written)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    return EncodedShard(hashlib.blake2b(data, digest_size=16).hexdigest(), sum(encoded.truncated))


def digest_of(work: Work, shard: int) -> str:
    """The digest of the rows that are on disk."""
    rows = work.rows(shard)
    hashed = hashlib.blake2b(digest_size=16)
    with open(Path(work.folder, FULL), "rb") as file:
        file.seek(4 * work.dim * rows.start)
        left = 4 * work.dim * len(rows)
        while left and (piece := file.read(min(left, _PIECE_BYTES))):
            hashed.update(piece)
            left -= len(piece)
    return hashed.hexdigest()


def read_texts(work: Work, rows: range) -> list[str]:
    """What the encoder is given for these passages. Read, not mapped: the memory of a build does not grow with its files."""
    with open(Path(work.folder, OFFSETS), "rb") as file:
        file.seek(8 * rows.start)
        ends = np.frombuffer(file.read(8 * (len(rows) + 1)), dtype="<u8").tolist()
    with open(Path(work.folder, ROWS), "rb") as file:
        file.seek(ends[0])
        packed = memoryview(file.read(ends[-1] - ends[0]))
    texts = []
    for start, end in itertools.pairwise(ends):
        passage = codec.unpack(bytes(packed[start - ends[0] : end - ends[0]]))
        texts.append(encoded_text(passage["title"], passage["text"], work.encode))
    return texts
