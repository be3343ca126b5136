"""Usable cores, from texts as the kernel writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.conf import cores
from ragpool.conf.cores import allowed_cores, by_neighbourhood, cores_of


def quota(files: dict[str, str]) -> float | None:
    known = {PurePosixPath(path): text for path, text in files.items()}
    return cores.cgroup_quota(known.get)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None), (None, None), ("1 0", None), ("x y", None)],
)
def test_cpu_max(text: str | None, expected: float | None) -> None:
    assert cores.quota_v2(text) == expected


@pytest.mark.parametrize(
    ("limit", "period", "expected"), [("200000\n", "100000\n", 2.0), ("-1\n", "100000\n", None), (None, None, None)]
)
def test_cfs_quota(limit: str | None, period: str | None, expected: float | None) -> None:
    assert cores.quota_v1(limit, period) == expected


def test_the_least_quota_on_the_way_up_counts() -> None:
    files = {
        "/proc/self/cgroup": "0::/a.slice/b.service\n",
        "/sys/fs/cgroup/a.slice/b.service/cpu.max": "max 100000",
        "/sys/fs/cgroup/a.slice/cpu.max": "250000 100000",
        "/sys/fs/cgroup/cpu.max": "800000 100000",
    }
    assert quota(files) == 2.5


def test_a_container_that_shows_the_path_of_its_host() -> None:
    assert quota({"/proc/self/cgroup": "0::/docker/abc\n", "/sys/fs/cgroup/cpu.max": "100000 100000"}) == 1.0
    assert quota({"/proc/self/cgroup": "0::/../other\n", "/sys/fs/cgroup/cpu.max": "300000 100000"}) == 3.0


def test_the_older_hierarchy() -> None:
    files = {
        "/proc/self/cgroup": "12:cpuset:/\n4:cpu,cpuacct:/job\n1:name=systemd:/x\n0::/x\n",
        "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "400000",
        "/sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert quota(files) == 4.0


@pytest.mark.parametrize("membership", ["", "nonsense", "0::", ":::", "4:cpu"])
def test_no_quota(membership: str) -> None:
    assert quota({"/proc/self/cgroup": membership}) is None
    assert quota({}) is None


@pytest.mark.parametrize(("allowed", "limit", "expected"), [(8, None, 8), (8, 1.5, 2), (2, 6.0, 2), (8, 0.25, 1)])
def test_usable_cores(monkeypatch: pytest.MonkeyPatch, allowed: int, limit: float | None, expected: int) -> None:
    monkeypatch.setattr(cores, "allowed_cores", lambda: allowed)
    monkeypatch.setattr(cores, "cgroup_quota", lambda read: limit)
    assert cores.usable_cores() == expected


def test_this_machine_has_a_core() -> None:
    assert 1 <= cores.usable_cores() <= cores.allowed_cores()


def test_the_environment_of_a_child() -> None:
    environment = cores.thread_environment(3)
    assert {environment[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")} == {"3"}
    assert environment["TOKENIZERS_PARALLELISM"] == "false"
    assert cores.thread_environment(0)["OMP_NUM_THREADS"] == "1"


@given(st.integers(1, 70), st.integers(1, 70))
def test_every_core_belongs_to_one_worker(workers: int, count: int) -> None:
    some = range(3, 3 + count)
    shares = [cores_of(slot, workers, some) for slot in range(workers)]
    if workers > count:
        assert all(list(share) == list(some) for share in shares)
    else:
        assert [core for share in shares for core in share] == list(some)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert list(cores_of(workers, workers, some)) == list(some)


def test_threads_of_one_physical_core_belong_to_one_worker() -> None:
    def siblings(path: PurePosixPath) -> str:
        core = int(path.parts[-3].removeprefix("cpu"))
        return f"{core % 4},{core % 4 + 4}\n"

    order = by_neighbourhood(range(8), siblings)
    assert order == [0, 4, 1, 5, 2, 6, 3, 7]
    assert [set(cores_of(slot, 4, order)) for slot in range(4)] == [{0, 4}, {1, 5}, {2, 6}, {3, 7}]
    assert by_neighbourhood({5, 2, 7}, lambda path: None) == [2, 5, 7]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or allowed_cores() < 2, reason="needs two cores to choose from")
def test_all_threads_keep_to_the_share() -> None:
    program = (
        "import os, threading; from ragpool.conf.cores import keep_to_share\n"
        "before, end = sorted(os.sched_getaffinity(0)), threading.Event()\n"
        "other = threading.Thread(target=end.wait); other.start()\n"
        "keep_to_share(1, 2)\n"
        "wanted = set(before[len(before) // 2:])\n"
        "print([os.sched_getaffinity(thread) == wanted for thread in (0, other.native_id)]); end.set()"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[True, True]"
