"""What a worker is running right now, in a small shared buffer that outlives it.

The thread that runs batches writes it; the worker's I/O thread reads it for the heartbeat, and the supervisor reads it after the
worker's death. Layout, little-endian: magic (8), sequence (u64, odd while it is being written), started (i64, nanoseconds of
CLOCK_MONOTONIC, 0 = idle), count (u32), 4 bytes of padding, then `count` request ids of 16 bytes.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from .messages import ID_BYTES

MAGIC = b"RPPROG01"
IDS_MAX = 4096
_HEAD = struct.Struct("<8sQqI4x")
SIZE = _HEAD.size + IDS_MAX * ID_BYTES

SharedBuffer = Union[bytearray, memoryview, mmap.mmap]


@dataclass(frozen=True, slots=True)
class Progress:
    """`started_ns` of the running batch (0: idle) and the ids in it. `torn`: the writer died while it wrote."""

    started_ns: int = 0
    running: tuple[bytes, ...] = ()
    torn: bool = False

    def age_s(self, now_ns: int) -> float:
        """Seconds that the running batch has taken so far; 0 when idle."""
        return max(0, now_ns - self.started_ns) / 1e9 if self.started_ns else 0.0


class ProgressWriter:
    """Written by one thread only. `buffer` has at least `SIZE` bytes."""

    def __init__(self, buffer: SharedBuffer) -> None:
        self._buffer = buffer
        self._sequence = 0
        self.clear()

    def start(self, now_ns: int, running: Sequence[bytes]) -> None:
        """A batch starts: stamp its time and its ids (the first `IDS_MAX` of them)."""
        kept = running[:IDS_MAX]
        self._write(now_ns, b"".join(kept), len(kept))

    def clear(self) -> None:
        """The batch ended."""
        self._write(0, b"", 0)

    def _write(self, started_ns: int, ids: bytes, count: int) -> None:
        self._sequence += 2
        _HEAD.pack_into(self._buffer, 0, MAGIC, self._sequence - 1, started_ns, count)
        self._buffer[_HEAD.size : _HEAD.size + len(ids)] = ids
        _HEAD.pack_into(self._buffer, 0, MAGIC, self._sequence, started_ns, count)


def read_progress(buffer: SharedBuffer) -> Progress:
    """What the buffer says; idle where nothing was ever written."""
    for _ in range(8):
        magic, sequence, started_ns, count = _HEAD.unpack_from(buffer, 0)
        if magic != MAGIC:
            return Progress()
        ids = bytes(buffer[_HEAD.size : _HEAD.size + min(count, IDS_MAX) * ID_BYTES])
        torn = bool(sequence % 2) or _HEAD.unpack_from(buffer, 0)[1] != sequence
        if not torn:
            break
    running = tuple(ids[i : i + ID_BYTES] for i in range(0, len(ids), ID_BYTES))
    return Progress(started_ns, running, torn)
