"""The passages of an index: MessagePack maps one after the other, where each begins, and their ids sorted by hash.

Files of version V: `passages-V.rows` the maps, `passages-V.offsets` uint64 (count + 1), `passages-V.ids` the uint64 hashes in
order and then the uint64 row of each. A row leaves the store as the bytes it is kept as: a reply needs no decoding.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..wire import codec
from ..wire.errors import ProtocolError
from .errors import IndexDamaged

ROWS = "rows"
OFFSETS = "offsets"
IDS = "ids"

_NOTHING_ELSE: dict[str, object] = {"title": "", "text": "", "metadata": {}}
_ENDING = codec.pack(_NOTHING_ELSE)[1:]
"""A small map is one byte and then its keys and values in their order."""


def hash_ids(ids: Iterable[str]) -> NDArray[np.uint64]:
    """8-byte BLAKE2b of each id, as uint64 (n,)."""
    return np.frombuffer(b"".join(hashlib.blake2b(id_.encode(), digest_size=8).digest() for id_ in ids), dtype="<u8")


def beginning_of(id_: str) -> bytes:
    """What the map of the passage with this id begins with, and no other's: an id is told from another without decoding."""
    return codec.pack({"id": id_, **_NOTHING_ELSE})[: -len(_ENDING)]


class PassageStore:
    """`count` passages by row number and by id, mapped into memory."""

    __slots__ = ("_hashes", "_id_rows", "_offsets", "_rows", "count")

    def __init__(self, rows: NDArray[np.uint8], offsets: NDArray[np.uint8], ids: NDArray[np.uint8]) -> None:
        self._rows = memoryview(rows)  # type: ignore[arg-type]
        self._offsets = offsets.view("<u8")
        self.count = len(self._offsets) - 1
        table = ids.view("<u8")
        self._hashes, self._id_rows = table[: self.count], table[self.count :]

    def raw(self, row: int) -> bytes:
        """The MessagePack map {id, title, text, metadata} of a row. Raises IndexError for a row that is not there."""
        if not 0 <= row < self.count:
            raise IndexError(f"row {row} of {self.count}")
        return bytes(self._rows[int(self._offsets[row]) : int(self._offsets[row + 1])])

    def size(self, row: int) -> int:
        """Bytes of the map of a row."""
        return int(self._offsets[row + 1]) - int(self._offsets[row])

    def raw_many(self, rows: Sequence[int]) -> list[bytes]:
        """`raw` of each row."""
        return [self.raw(operator.index(row)) for row in rows]

    def get(self, row: int) -> dict[str, Any]:
        """The passage of a row as a map. Raises `IndexDamaged` where the bytes are no passage."""
        try:
            passage = codec.unpack(self.raw(row))
            if isinstance(passage, dict) and isinstance(passage["id"], str) and isinstance(passage["text"], str):
                return passage
        except (ProtocolError, KeyError):
            pass
        raise IndexDamaged(f"row {row} of the passages is damaged")

    def find(self, id_: str) -> int | None:
        """The row of the passage with this id."""
        try:
            hashed = hash_ids([id_])[0]
        except UnicodeEncodeError:  # half of a surrogate pair: no stored id has one
            return None
        beginning = beginning_of(id_)
        position = int(np.searchsorted(self._hashes, hashed))
        while position < self.count and self._hashes[position] == hashed:
            row = int(self._id_rows[position])
            start = int(self._offsets[row])
            if self._rows[start : start + len(beginning)] == beginning:
                return row
            position += 1
        return None
