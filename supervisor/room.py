"""Whether a second worker process fits beside one that serves: memory of the host and of its CUDA devices.

A process needs about what the one that serves has, and what its index is larger by. Mapped index files are counted too,
although the kernel could drop them: better one process drained first than one killed for memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from ..conf.cores import Read, read_text
from ..conf.memory import host_free, kilobytes
from .device_memory import Reading

MARGIN = 1.1
"""Of what the new process is taken to need: estimates err."""


def has_room(pid: int, readings: Sequence[Reading | None], growth: int = 0, on_device: int = 0, read: Read | None = None) -> bool:
    """Whether a process like `pid` fits beside it now, with an index that is `growth` bytes larger, of which `on_device` go to
    each of its CUDA devices. `readings`: one of each of these; where nobody can read one (None) it does not."""
    read = read or read_text
    need, free = resident(read(PurePosixPath(f"/proc/{pid}/status"))), host_free(read)
    if need is not None and free is not None and (need + growth) * MARGIN > free:
        return False
    return all(reading is not None and _fits(pid, reading, on_device) for reading in readings)


def _fits(pid: int, reading: Reading, growth: int) -> bool:
    return (reading.by_pid.get(pid, reading.used) + growth) * MARGIN <= reading.total - reading.used


def growth(old: tuple[str, str], new: tuple[str, str], read: Read | None = None) -> int:
    """By how many bytes the index `new` (folder, version) is larger on disk than `old`. 0 where it is not, or nobody knows."""
    sizes = [index_bytes(*index, read or read_text) for index in (old, new)]
    return max(0, (sizes[1] or 0) - sizes[0]) if sizes[0] is not None else 0


def index_bytes(folder: str, version: str, read: Read) -> int | None:
    """Of all files of that version ("": the newest), as its manifest says; None where that cannot be read. Whether an index is a
    good one is found by who loads it."""
    for name in (f"manifest-{version}.json", "manifest.json"):
        text = read(PurePosixPath(folder) / name) or ""
        try:
            manifest = json.loads(text)
            if version in ("", manifest["version"]):
                sizes = [entry["size"] for entry in manifest["files"].values()]
                return sum(sizes) if all(type(size) is int for size in sizes) else None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return None


def resident(status: str | None) -> int | None:
    """Bytes in memory by the text of /proc/PID/status; None where it does not say."""
    return kilobytes(status, "VmRSS:")
