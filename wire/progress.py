"""What a worker is running right now, in a small shared buffer that outlives it.

The thread that runs batches writes what runs, the worker's I/O thread a beat; the I/O thread reads it for the heartbeat, and the
supervisor to see a worker that hangs, and after its death. Layout, little-endian: magic (8), sequence (u64, odd while it is being
written), started (i64, nanoseconds of CLOCK_MONOTONIC, 0 = idle), p99 (i64, nanoseconds that all but one in a hundred of recent
batches took at most), count (u32), 4 bytes of padding, beat (i64, nanoseconds of CLOCK_MONOTONIC, written by the I/O thread alone
and outside the sequence), then `count` request ids of 16 bytes.
"""

from __future__ import annotations

import mmap
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from .messages import ID_BYTES

MAGIC = b"RPPROG02"
IDS_MAX = 4096
RECENT = 128
"""Batches from which the p99 is read."""

_HEAD = struct.Struct("<8sQqqI4x")
_BEAT = struct.Struct("<q")
_IDS_AT = _HEAD.size + _BEAT.size
SIZE = _IDS_AT + IDS_MAX * ID_BYTES

SharedBuffer = Union[bytearray, memoryview, mmap.mmap]


@dataclass(frozen=True, slots=True)
class Progress:
    """`started_ns` of the running batch (0: idle) and the ids in it. `p99_ns` of batches before it, 0 while there was none.
    `beat_ns`: when the I/O thread last turned. `torn`: the writer died while it wrote."""

    started_ns: int = 0
    running: tuple[bytes, ...] = ()
    p99_ns: int = 0
    beat_ns: int = 0
    torn: bool = False

    def age_s(self, now_ns: int) -> float:
        """Seconds that the running batch has taken so far; 0 when idle."""
        return max(0, now_ns - self.started_ns) / 1e9 if self.started_ns else 0.0


class ProgressWriter:
    """Written by one thread only. `buffer` has at least `SIZE` bytes."""

    def __init__(self, buffer: SharedBuffer) -> None:
        self._buffer = buffer
        self._sequence = 0
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._p99_ns = 0
        self.clear()

    def start(self, now_ns: int, running: Sequence[bytes]) -> None:
        """A batch starts: stamp its time and its ids (the first `IDS_MAX` of them)."""
        kept = running[:IDS_MAX]
        self._write(now_ns, b"".join(kept), len(kept))

    def took(self, batch_ns: int) -> None:
        """So long a batch took that has ended; the next stamp tells what is usual."""
        self._recent.append(max(0, batch_ns))
        ranked = sorted(self._recent)
        self._p99_ns = ranked[min(len(ranked) - 1, int(0.99 * len(ranked)))]

    def clear(self) -> None:
        """Nothing runs any more."""
        self._write(0, b"", 0)

    def _write(self, started_ns: int, ids: bytes, count: int) -> None:
        self._sequence += 2
        _HEAD.pack_into(self._buffer, 0, MAGIC, self._sequence - 1, started_ns, self._p99_ns, count)
        self._buffer[_IDS_AT : _IDS_AT + len(ids)] = ids
        _HEAD.pack_into(self._buffer, 0, MAGIC, self._sequence, started_ns, self._p99_ns, count)


def stamp_beat(buffer: SharedBuffer, now_ns: int) -> None:
    """The I/O thread turned. Only that thread may say so."""
    _BEAT.pack_into(buffer, _HEAD.size, now_ns)


def read_progress(buffer: SharedBuffer) -> Progress:
    """What the buffer says; idle where nothing was ever written."""
    for _ in range(8):
        magic, sequence, started_ns, p99_ns, count = _HEAD.unpack_from(buffer, 0)
        if magic != MAGIC:
            return Progress()
        ids = bytes(buffer[_IDS_AT : _IDS_AT + min(count, IDS_MAX) * ID_BYTES])
        torn = bool(sequence % 2) or _HEAD.unpack_from(buffer, 0)[1] != sequence
        if not torn:
            break
    running = tuple(ids[i : i + ID_BYTES] for i in range(0, len(ids), ID_BYTES))
    return Progress(started_ns, running, p99_ns, _BEAT.unpack_from(buffer, _HEAD.size)[0], torn)
