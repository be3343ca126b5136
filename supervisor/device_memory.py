"""Whether the memory of a dead process on its CUDA device is back. Pure: readings and times in, a verdict out.

A driver may give it back some time after the process is gone; a successor that loads before that runs out of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

WAIT_MAX_S = 30.0
"""From when the successor was wanted."""
SILENT_MAX_S = 5.0
"""Nobody waits longer than this for a driver that says nothing."""
STILL_BYTES = 16 * 1024 * 1024
"""Used memory that falls by less between two readings has stopped falling."""

WAIT = "wait"
BACK = "back"
HELD = "held"


@dataclass(frozen=True, slots=True)
class Reading:
    """One device at one time, in bytes. `by_pid`: what each process holds there, as far as the driver tells; it counts processes
    of its own namespace, so that inside a container ours may not be among them."""

    taken_at: float
    used: int
    total: int
    by_pid: Mapping[int, int]


class DeviceMemory(Protocol):
    """Where readings come from."""

    def reading(self, device: str) -> Reading | None:
        """The last one of that device; None where there is none (yet)."""
        ...


class MemoryWait:
    """The memory of one process that ended at `ended_at`. `listed`: the driver named it while it lived."""

    def __init__(self, pid: int, listed: bool, ended_at: float) -> None:
        self.pid = pid
        self.held = 0
        self._listed = listed
        self._ended_at = ended_at
        self._before: Reading | None = None

    def judge(self, reading: Reading | None, wanted_since: float, now: float) -> str:
        """`WAIT`, `BACK`, or `HELD`: not back for too long."""
        waited_s = now - max(wanted_since, self._ended_at)
        if reading is None or reading.taken_at <= self._ended_at:
            return BACK if waited_s > SILENT_MAX_S else WAIT
        if self.pid in reading.by_pid:
            self._listed, self.held = True, reading.by_pid[self.pid]
            return HELD if waited_s > WAIT_MAX_S else WAIT
        if self._listed or self._has_settled(reading):
            return BACK
        return BACK if waited_s > WAIT_MAX_S else WAIT

    def _has_settled(self, reading: Reading) -> bool:
        """Without its name in the list: two readings in a row between which nothing was given back."""
        before, self._before = self._before, reading
        if before is None or before.taken_at == reading.taken_at:
            self._before = before or reading
            return False
        return before.used - reading.used < STILL_BYTES
