"""How much memory a host and the control groups of this process have, and can still give, from the kernel's own texts."""

from __future__ import annotations

from pathlib import PurePosixPath

from .cores import Read, cgroup_folders


def host_free(read: Read) -> int | None:
    """Bytes that this process's host, or its control group if that is less, can still give; None where neither says."""
    limits = [kilobytes(read(PurePosixPath("/proc/meminfo")), "MemAvailable:")]
    limits += [_group_free(read, folder) for folder in cgroup_folders(read, "memory")]
    return min((limit for limit in limits if limit is not None), default=None)


def host_total(read: Read) -> int | None:
    """Bytes that this process's host has, or its control group may have if that is less; None where neither says."""
    limits = [kilobytes(read(PurePosixPath("/proc/meminfo")), "MemTotal:")]
    limits += [_whole(read(folder / most)) for folder in cgroup_folders(read, "memory") for most in ("memory.max", _VERSION_1[0])]
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


def kilobytes(text: str | None, name: str) -> int | None:
    """The bytes on the line of `text` that begins with `name`, which has them in kB; None where there is none."""
    words = next((line.split() for line in (text or "").splitlines() if line.startswith(name)), [])
    return int(words[1]) * 1024 if len(words) > 1 and words[1].isdecimal() else None
