"""Whether a second worker process fits beside one that serves: memory of the host and of its CUDA device.

A process needs about what the one that serves has. Mapped index files are counted too, although the kernel could drop them:
better one process drained first than one killed for memory.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ..conf.cores import Read, cgroup_folders
from .device_memory import Reading

MARGIN = 1.1
"""Of what the old process has: an index grows, and estimates err."""


def has_room(pid: int, device: str, reading: Reading | None, read: Read | None = None) -> bool:
    """Whether a process like `pid` fits beside it now. On a CUDA device whose memory nobody can read it does not."""
    read = read or _read
    need, free = resident(read(PurePosixPath(f"/proc/{pid}/status"))), host_free(read)
    if need is not None and free is not None and need * MARGIN > free:
        return False
    if not device.startswith("cuda"):
        return True
    if reading is None:
        return False
    return reading.by_pid.get(pid, reading.used) * MARGIN <= reading.total - reading.used


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
