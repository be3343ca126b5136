"""Whether the kernel killed a child for memory, as far as the control group tells. Says no where it cannot know."""

from __future__ import annotations

from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


class OomKills:
    """Counts of `oom_kill` of our own control group (cgroup v2), which its children share. Each kill explains one death."""

    def __init__(self, events: Path | None = None) -> None:
        self._events = events or _own_events()
        self._explained = self._count()

    def forget(self) -> None:
        """Kills so far have nothing to do with what is started from now on."""
        self._explained = self._count()

    def explains_one(self) -> bool:
        """True when there was a kill that explains no earlier death."""
        if self._count() <= self._explained:
            return False
        self._explained += 1
        return True

    def _count(self) -> int:
        if self._events is None:
            return 0
        try:
            lines = self._events.read_text().splitlines()
            return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))
        except (OSError, ValueError, IndexError, StopIteration):
            return 0


def _own_events() -> Path | None:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        hierarchy, _, path = line.partition("::")
        if hierarchy == "0":
            return _CGROUPS / path.strip("/") / "memory.events"
    return None
