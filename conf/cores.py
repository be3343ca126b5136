"""How many cores this process may use, and what tells numeric libraries to use no more. Loads none of those libraries."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePosixPath

Read = Callable[[PurePosixPath], str | None]
"""The text of a file, or None where there is none."""

_MOUNT = PurePosixPath("/sys/fs/cgroup")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


def usable_cores() -> int:
    """Cores by affinity, or by the cgroup's CPU quota rounded up, whichever is less; at least 1."""
    quota = cgroup_quota(read_text)
    return max(1, allowed_cores() if quota is None else min(allowed_cores(), math.ceil(quota)))


def allowed_cores() -> int:
    """Cores this process may be scheduled on; where the system has no affinity, all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of(slot: int, workers: int, cores: Sequence[int]) -> Sequence[int]:
    """The cores that the worker of `slot` keeps to: neighbours, about as many as the others have, and none of theirs. All for one
    worker alone, where there are more workers than cores, and for a slot beyond those `workers`.
    """
    if not 1 < workers <= len(cores) or slot >= workers:
        return cores
    return cores[slot * len(cores) // workers : (slot + 1) * len(cores) // workers]


def keep_to_share(slot: int, workers: int) -> None:
    """From here on this process, with all its threads, keeps to the cores of its slot, where the system has a say in it (Linux).

    What it computes with stays in the caches of those cores, which its neighbours would otherwise push out of them.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    with contextlib.suppress(OSError):  # without /proc nothing is moved
        share = cores_of(slot, workers, by_neighbourhood(os.sched_getaffinity(0), read_text))
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # the thread ended, or it may not be moved
                os.sched_setaffinity(int(thread), share)


def by_neighbourhood(cores: Collection[int], read: Read) -> list[int]:
    """`cores` in an order in which those that share a physical core stand together: a share has whole ones, as far as it can."""
    siblings = PurePosixPath("/sys/devices/system/cpu")
    first: dict[int, int] = {}
    for core in cores:
        told = re.match(r"[0-9]+", read(siblings / f"cpu{core}" / "topology/thread_siblings_list") or "")
        first[core] = int(told[0]) if told else core
    return sorted(cores, key=lambda core: (first[core], core))


def thread_environment(threads: int) -> dict[str, str]:
    """Environment of a child that may compute with `threads` threads; it must be set before the child imports torch."""
    return dict.fromkeys(_THREAD_VARIABLES, str(max(1, threads))) | {"TOKENIZERS_PARALLELISM": "false"}


def cgroup_quota(read: Read) -> float | None:
    """CPU time, in cores, that cgroups leave this process: the least of its own quota and all above it. None = no quota."""
    quotas = []
    for folder in cgroup_folders(read, "cpu"):
        quotas.append(quota_v2(read(folder / "cpu.max")))
        quotas.append(quota_v1(read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")))
    return min((quota for quota in quotas if quota is not None), default=None)


def cgroup_folders(read: Read, controller: str) -> list[PurePosixPath]:
    """Folders that may limit this process, its own group's and all above it, of cgroup v2 and of v1's `controller`."""
    folders = []
    for line in (read(PurePosixPath("/proc/self/cgroup")) or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            folders += _upwards(_MOUNT, path)
        elif controller in controllers.split(","):
            folders += _upwards(_MOUNT / controller, path)
    return folders


def quota_v2(text: str | None) -> float | None:
    """Cores of a `cpu.max`, such as "150000 100000" or "max 100000"; None = no quota, or not readable as one."""
    words = (text or "").split()
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def quota_v1(quota: str | None, period: str | None) -> float | None:
    """Cores of a `cpu.cfs_quota_us` and its `cpu.cfs_period_us`; None = no quota (-1), or not readable as one."""
    return _ratio((quota or "").strip(), (period or "").strip())


def _ratio(quota: str, period: str) -> float | None:
    try:
        used, of = int(quota), int(period)
    except ValueError:
        return None
    return used / of if used > 0 and of > 0 else None


def _upwards(mount: PurePosixPath, path: str) -> list[PurePosixPath]:
    """The cgroup's folder and all above it up to the mount. In a container the path may be the host's, and lead nowhere."""
    parts = [part for part in path.split("/") if part]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


READ_MAX_CHARACTERS = 4 * 1024 * 1024
"""More than any file that is asked for here has; what is larger is cut."""


def read_text(path: PurePosixPath) -> str | None:
    """What the file says on this host."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(READ_MAX_CHARACTERS)
    except OSError:
        return None
