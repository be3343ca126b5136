"""Whether a second worker fits beside one that serves, from texts as the kernel writes them and readings of a device."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from ragpool.supervisor.device_memory import Reading
from ragpool.supervisor.room import has_room, host_free

STATUS = "Name:\tpython\nVmRSS:\t  1000 kB\nRssAnon:\t 600 kB\n"
GROUP = "/sys/fs/cgroup/a.slice"


def files(**texts: str) -> dict[PurePosixPath, str]:
    known = {"/proc/7/status": STATUS, "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n"}
    group = {f"{GROUP}/memory.{name}": text for name, text in texts.items()}
    return {PurePosixPath(path): text for path, text in {**known, **group, "/proc/self/cgroup": "0::/a.slice\n"}.items()}


def reading(used: int, **by_pid: int) -> Reading:
    return Reading(1.0, used, 1000, {int(pid[1:]): held for pid, held in by_pid.items()})


@pytest.mark.parametrize(
    ("group", "free_kb"),
    [
        ({}, 5000),
        ({"max": "max", "current": "100"}, 5000),
        ({"max": str(2000 * 1024), "current": str(1500 * 1024)}, 500),
        ({"max": str(2000 * 1024), "current": str(1500 * 1024), "stat": f"anon 1\ninactive_file {800 * 1024}\n"}, 1300),
        ({"max": str(9000 * 1024), "current": "0"}, 5000),
        ({"max": "x", "current": ""}, 5000),
    ],
)
def test_what_a_host_or_its_control_group_can_give(group: dict[str, str], free_kb: int) -> None:
    assert host_free(files(**group).get) == free_kb * 1024


def test_the_older_hierarchy() -> None:
    known = files() | {
        PurePosixPath("/proc/self/cgroup"): "4:memory:/job\n",
        PurePosixPath("/sys/fs/cgroup/memory/job/memory.limit_in_bytes"): "3000",
        PurePosixPath("/sys/fs/cgroup/memory/job/memory.usage_in_bytes"): "1000",
    }
    assert host_free(known.get) == 2000


@pytest.mark.parametrize(("limit_kb", "fits"), [(1050, False), (1150, True)])
def test_a_process_needs_what_the_old_one_has_and_a_tenth(limit_kb: int, fits: bool) -> None:
    assert has_room(7, "cpu", None, files(max=str(limit_kb * 1024), current="0").get) is fits


def test_nobody_knows_means_room_on_a_host_and_none_on_a_device() -> None:
    assert has_room(7, "cpu", None, {}.get)
    assert not has_room(7, "cuda:0", None, {}.get)


@pytest.mark.parametrize(
    ("seen", "fits"),
    [
        (reading(400, p7=400), True),
        (reading(500, p7=500), False),
        (reading(500, p7=100), True),
        (reading(400, p9=400), True),
        (reading(600), False),
    ],
)
def test_a_device_needs_room_for_what_the_old_one_holds_or_all_that_is_used(seen: Reading, fits: bool) -> None:
    assert has_room(7, "cuda:0", seen, files().get) is fits
