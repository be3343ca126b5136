"""What memory a host and its control groups have and can give, from texts as the kernel writes them."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from ragpool.conf.memory import host_free, host_total

GROUP = "/sys/fs/cgroup/a.slice"


def files(**texts: str) -> dict[PurePosixPath, str]:
    known = {"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n", "/proc/self/cgroup": "0::/a.slice\n"}
    group = {f"{GROUP}/memory.{name}": text for name, text in texts.items()}
    return {PurePosixPath(path): text for path, text in {**known, **group}.items()}


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


def test_all_there_is_is_the_hosts_or_the_least_of_its_control_groups() -> None:
    assert host_total(files().get) == 9000 * 1024
    assert host_total(files(max="max").get) == 9000 * 1024
    assert host_total(files(max="2000").get) == 2000
    assert host_total((files(max="2000") | {PurePosixPath("/sys/fs/cgroup/memory.max"): "1000"}).get) == 1000
    assert host_total({}.get) is None
