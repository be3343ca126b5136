"""Writes the passage files of an index while the corpus streams by. Keeps 16 bytes a row in memory, more only while
it merges; never the texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..wire import codec
from .passages import IDS, OFFSETS, ROWS, hash_ids
from .sealed import SealedWriter

_Run = tuple[NDArray[np.uint64], NDArray[np.uint64]]
"""Hashes in order, and the row of each."""


class PassageWriter:
    """New files `rows`, `offsets` and `ids` in `folder`: any number of `append`, then `finish`."""

    def __init__(self, folder: Path) -> None:
        self.rows = SealedWriter(folder / ROWS)
        self.offsets = SealedWriter(folder / OFFSETS)
        self.ids = SealedWriter(folder / IDS)
        self.count = 0
        self._runs: list[_Run] = []
        self._end = 0
        self.offsets.write(np.zeros(1, dtype="<u8"))

    def append(self, ids: Sequence[str], packed: Sequence[bytes]) -> list[int]:
        """Adds passages, except those whose id is taken already; the positions of those."""
        hashes = hash_ids(ids)
        taken = self._taken(ids, hashes)
        kept = [position for position in range(len(ids)) if position not in taken]
        if kept:
            self._write([packed[position] for position in kept])
            new = hashes[kept]
            order = np.argsort(new, kind="stable")
            first = self.count - len(kept)
            self._runs.append((new[order], (order + first).astype("<u8")))
            self._merge_small()
        return sorted(taken)

    def finish(self) -> None:
        """Writes what can only be known at the end. The files still want sealing."""
        while len(self._runs) > 1:
            self._merge_last()
        for part in self._runs[0] if self._runs else ():
            self.ids.write(part)

    def writers(self) -> dict[str, SealedWriter]:
        return {ROWS: self.rows, OFFSETS: self.offsets, IDS: self.ids}

    def _write(self, packed: list[bytes]) -> None:
        ends = np.cumsum([self._end, *(len(row) for row in packed)], dtype="<u8")[1:]
        self.rows.write(b"".join(packed))
        self.offsets.write(ends)
        self._end = int(ends[-1])
        self.count += len(packed)

    def _taken(self, ids: Sequence[str], hashes: NDArray[np.uint64]) -> set[int]:
        """Positions whose id occurs earlier among `ids` or was written before. Equal hashes are not yet equal ids."""
        first: dict[str, int] = {}
        taken = {position for position, id_ in enumerate(ids) if first.setdefault(id_, position) != position}
        flushed = False
        for known, rows in self._runs:
            places = np.searchsorted(known, hashes)
            places[places == len(known)] = 0
            for position in np.flatnonzero(known[places] == hashes).tolist():
                if not flushed:
                    self.rows.flush()
                    self.offsets.flush()
                    flushed = True
                place = int(places[position])
                while place < len(known) and known[place] == hashes[position]:
                    if self._written_id(int(rows[place])) == ids[position]:
                        taken.add(position)
                    place += 1
        return taken

    def _written_id(self, row: int) -> str:
        with open(self.offsets.path, "rb") as file:
            start, end = np.frombuffer(os.pread(file.fileno(), 16, 8 * row), dtype="<u8").tolist()
        with open(self.rows.path, "rb") as file:
            return str(codec.unpack(os.pread(file.fileno(), end - start, start))["id"])

    def _merge_small(self) -> None:
        """Keeps the runs geometric, so that a row is merged a logarithmic number of times."""
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) >= len(self._runs[-2][0]):
            self._merge_last()

    def _merge_last(self) -> None:
        newer, older = self._runs.pop(), self._runs.pop()
        hashes = np.concatenate([older[0], newer[0]])
        order = np.argsort(hashes, kind="stable")
        self._runs.append((hashes[order], np.concatenate([older[1], newer[1]])[order]))
