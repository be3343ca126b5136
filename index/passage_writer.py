"""Writes the passage files of an index while the corpus streams by. Keeps 12 bytes a row in memory, about twice that while
it merges; never the texts."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..wire import codec
from .errors import ConfigurationError
from .passages import IDS, OFFSETS, ROWS, hash_ids

PASSAGES_MAX = 2**32
"""More than one folder of one host holds, and rows fit four bytes while ids are sorted."""

_Run = tuple[NDArray[np.uint64], NDArray[np.uint32]]
"""Hashes in order, and the row of each."""

_WRITTEN_ROWS = 65_536


class PassageWriter:
    """New files `rows`, `offsets` and `ids` in `folder`: any number of `append`, then `finish`. To be closed whatever happens."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self.folder = folder
        self._files = contextlib.ExitStack()
        self._rows, self._offsets, self._ids = (
            self._files.enter_context((folder / role).open("wb", buffering=1 << 20)) for role in (ROWS, OFFSETS, IDS)
        )
        self._hash = hashlib.sha256()
        self._runs: list[_Run] = []
        self._end = 0
        self._offsets.write(bytes(8))

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
            self._runs.append((new[order], (order + first).astype("<u4")))
            self._merge_small()
        return sorted(taken)

    def finish(self) -> str:
        """Writes what can only be known at the end and brings all to disk; the SHA-256 of the passages."""
        while len(self._runs) > 1:
            self._merge_last()
        for part in self._runs[0] if self._runs else ():
            for first in range(0, len(part), _WRITTEN_ROWS):
                self._ids.write(part[first : first + _WRITTEN_ROWS].astype("<u8").tobytes())
        for file in (self._rows, self._offsets, self._ids):
            file.flush()
            os.fsync(file.fileno())
        return self._hash.hexdigest()

    def close(self) -> None:
        self._files.close()

    def _write(self, packed: list[bytes]) -> None:
        if self.count + len(packed) > PASSAGES_MAX:
            raise ConfigurationError(f"an index holds at most {PASSAGES_MAX:,} passages, and the corpus has more")
        ends = np.cumsum([self._end, *(len(row) for row in packed)], dtype="<u8")[1:]
        joined = b"".join(packed)
        self._rows.write(joined)
        self._hash.update(joined)
        self._offsets.write(ends.tobytes())
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
                    self._rows.flush()
                    self._offsets.flush()
                    flushed = True
                place = int(places[position])
                while place < len(known) and known[place] == hashes[position]:
                    if self._written_id(int(rows[place])) == ids[position]:
                        taken.add(position)
                    place += 1
        return taken

    def _written_id(self, row: int) -> str:
        with open(self.folder / OFFSETS, "rb") as file:
            start, end = np.frombuffer(os.pread(file.fileno(), 16, 8 * row), dtype="<u8").tolist()
        with open(self.folder / ROWS, "rb") as file:
            return str(codec.unpack(os.pread(file.fileno(), end - start, start))["id"])

    def _merge_small(self) -> None:
        """Keeps the runs geometric, so that a row is merged a logarithmic number of times."""
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) >= len(self._runs[-2][0]):
            self._merge_last()

    def _merge_last(self) -> None:
        """Of two runs one, with no more than one column of it twice in memory: about 26 bytes a row at most."""
        (new_hashes, new_rows), (old_hashes, old_rows) = self._runs.pop(), self._runs.pop()
        places = np.searchsorted(old_hashes, new_hashes, side="right")
        places += np.arange(len(places))
        is_old = np.ones(len(old_hashes) + len(new_hashes), dtype=bool)
        is_old[places] = False
        hashes = np.empty(len(is_old), dtype="<u8")
        hashes[places], hashes[is_old] = new_hashes, old_hashes
        del new_hashes, old_hashes
        rows = np.empty(len(is_old), dtype="<u4")
        rows[places], rows[is_old] = new_rows, old_rows
        self._runs.append((hashes, rows))
