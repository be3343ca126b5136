"""Whether a second worker process fits beside one that serves: memory of the host and of its CUDA devices.

A process needs about what the one that serves has, and what its index is larger by. Mapped index files are counted too,
although the kernel could drop them: better one process drained first than one killed for memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..conf.cores import Read, cgroup_folders
from .device_memory import Reading

MARGIN = 1.1
"""Of what the new process is taken to need: estimates err."""

MANIFEST_MAX_CHARACTERS = 4 * 1024 * 1024


def has_room(pid: int, readings: Sequence[Reading | None], growth: int = 0, on_device: int = 0, read: Read | None = None) -> bool:
    """Whether a process like `pid` fits beside it now, with an index that is `growth` bytes larger, of which `on_device` go to
    each of its CUDA devices. `readings`: one of each of these; where nobody can read one (None) it does not."""
    read = read or _read
    need, free = resident(read(PurePosixPath(f"/proc/{pid}/status"))), host_free(read)
    if need is not None and free is not None and (need + growth) * MARGIN > free:
        return False
    return all(reading is not None and _fits(pid, reading, on_device) for reading in readings)


def _fits(pid: int, reading: Reading, growth: int) -> bool:
    return (reading.by_pid.get(pid, reading.used) + growth) * MARGIN <= reading.total - reading.used


def growth(old: tuple[str, str], new: tuple[str, str], read: Read | None = None) -> int:
    """By how many bytes the index `new` (folder, version) is larger on disk than `old`. 0 where it is not, or nobody knows."""
    sizes = [index_bytes(*index, read or _read) for index in (old, new)]
    return max(0, (sizes[1] or 0) - sizes[0]) if sizes[0] is not None else 0


def index_bytes(folder: str, version: str, read: Read) -> int | None:
    """Of all files of that version ("": the newest), as its manifest says; None where that cannot be read. Whether an index is a
    good one is found by who loads it."""
    for name in (f"manifest-{version}.json", "manifest.json"):
        text = read(PurePosixPath(folder) / name) or ""
        try:
            manifest = json.loads(text) if len(text) <= MANIFEST_MAX_CHARACTERS else {}
            if version in ("", manifest["version"]):
                sizes = [entry["size"] for entry in manifest["files"].values()]
                return sum(sizes) if all(type(size) is int for size in sizes) else None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return None


def resident(status: str | None) -> int | None:
    """Bytes in memory by the text of /proc/PID/status; None where it does not say."""
    return _kilobytes(status, "VmRSS:")


def host_free(read: Read) -> int | None:
    """Bytes that this process's host, or its control group if that is less, can still give; None where neither says."""
    limits = [_kilobytes(read(PurePosixPath("/proc/meminfo")), "MemAvailable:")]
    limits += [_group_free(read, folder) for folder in cgroup_folders(read, "memory")]
    return min((limit for limit in limits if limit is not None), default=None)


def _group_free(read: Read, folder: PurePosixPath) -> int | None:
    """What one control group has left (version 2 or 1); what it can drop from the page cache counts as left."""
    for most, used, dropped in (("memory.max", "memory.current", "inactive_file"), _VERSION_1):
        limit, current = _whole(read(folder / most)), _whole(read(folder / used))
        if limit is not None and current is not None:
            return limit - current + (_counter(read(folder / "memory.stat"), dropped) or 0)
    return None


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _whole(text: str | None) -> int | None:
    word = (text or "").strip()
    return int(word) if word.isdecimal() else None


def _counter(text: str | None, name: str) -> int | None:
    words = next((line.split() for line in (text or "").splitlines() if line.startswith(f"{name} ")), ["", ""])
    return _whole(words[1])


def _kilobytes(text: str | None, name: str) -> int | None:
    words = next((line.split() for line in (text or "").splitlines() if line.startswith(name)), [])
    return int(words[1]) * 1024 if len(words) > 1 and words[1].isdecimal() else None


def _read(path: PurePosixPath) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
