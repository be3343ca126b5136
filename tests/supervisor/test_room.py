"""Whether a second worker fits beside one that serves, from texts as the kernel writes them and readings of a device."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest
from ragpool.index.errors import DeviceFull, DeviceUnavailable
from ragpool.index.placement import Memory, cloning
from ragpool.supervisor.device_memory import Reading
from ragpool.supervisor.exits import EndRecord, classify, lacked_room
from ragpool.supervisor.process import ChildSpec
from ragpool.supervisor.room import growth, has_room

STATUS = "Name:\tpython\nVmRSS:\t  1000 kB\nRssAnon:\t 600 kB\n"
GROUP = "/sys/fs/cgroup/a.slice"


def files(**texts: str) -> dict[PurePosixPath, str]:
    known = {"/proc/7/status": STATUS, "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n"}
    group = {f"{GROUP}/memory.{name}": text for name, text in texts.items()}
    return {PurePosixPath(path): text for path, text in {**known, **group, "/proc/self/cgroup": "0::/a.slice\n"}.items()}


def reading(used: int, **by_pid: int) -> Reading:
    return Reading(1.0, used, 1000, {int(pid[1:]): held for pid, held in by_pid.items()})


@pytest.mark.parametrize(("limit_kb", "fits"), [(1050, False), (1150, True)])
def test_a_process_needs_what_the_old_one_has_and_a_tenth(limit_kb: int, fits: bool) -> None:
    assert has_room(7, [], read=files(max=str(limit_kb * 1024), current="0").get) is fits


@pytest.mark.parametrize(("growth_kb", "fits"), [(0, True), (40, True), (50, False), (9000, False)])
def test_a_larger_index_needs_as_much_more(growth_kb: int, fits: bool) -> None:
    assert has_room(7, [], growth_kb * 1024, read=files(max=str(1150 * 1024), current="0").get) is fits


def test_nobody_knows_means_room_on_a_host_and_none_on_a_device() -> None:
    assert has_room(7, [], read={}.get)
    assert not has_room(7, [None], read={}.get)
    assert not has_room(7, [reading(100, p7=100), None], read={}.get)


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
    assert has_room(7, [seen], read=files().get) is fits


@pytest.mark.parametrize(
    ("others", "on_device", "fits"),
    [
        ([reading(400, p7=400)], 0, True),
        ([reading(900, p7=400)], 0, False),
        ([reading(400, p7=400), reading(600)], 0, False),
        ([reading(400, p7=400)], 150, False),
        ([reading(400, p7=400)], 140, True),
    ],
)
def test_each_device_of_an_index_that_spans_several_needs_room(others: list[Reading], on_device: int, fits: bool) -> None:
    assert has_room(7, [reading(300, p7=300), *others], 0, on_device, files().get) is fits


@pytest.mark.parametrize(
    ("device", "gpus", "devices"),
    [
        ("cpu", 2, ()),
        ("cuda:1", 0, ("cuda:1",)),
        ("cuda:1", 1, ("cuda:1",)),
        ("cuda:1", 3, ("cuda:1", "cuda:2", "cuda:3")),
        ("cuda", 2, ("cuda", "cuda:1")),
    ],
)
def test_the_devices_of_a_worker_are_its_own_and_the_following(device: str, gpus: int, devices: tuple[str, ...]) -> None:
    assert ChildSpec("worker", "m", device=device, gpus=gpus).devices == devices


def manifests(**sizes: object) -> dict[PurePosixPath, str]:
    """An index whose newest version is the last of these, each with two files, one of them of 100 bytes."""
    texts = {
        name: json.dumps({"version": name, "files": {"a": {"size": 100}, "b": {"size": size}}}) for name, size in sizes.items()
    }
    kept = {PurePosixPath(f"/i/manifest-{name}.json"): text for name, text in texts.items()}
    return {**kept, PurePosixPath("/i/manifest.json"): list(texts.values())[-1]}


@pytest.mark.parametrize(
    ("old", "new", "more"),
    [
        (("/i", "v1"), ("/i", ""), 300),
        (("/i", "v1"), ("/i", "v2"), 300),
        (("/i", "v2"), ("/i", "v1"), 0),
        (("/i", "v2"), ("/i", ""), 0),
        (("/i", "v9"), ("/i", ""), 0),
        (("/i", "v1"), ("/nowhere", ""), 0),
    ],
)
def test_an_index_grows_by_what_its_files_are_larger(old: tuple[str, str], new: tuple[str, str], more: int) -> None:
    assert growth(old, new, manifests(v1=50, v2=350).get) == more


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": "v2"}', '{"version": 2, "files": 3}', "[" * 10**5])
def test_a_manifest_that_is_none_tells_no_size(text: str) -> None:
    broken = {**manifests(v1=50), PurePosixPath("/j/manifest.json"): text}
    assert growth(("/i", "v1"), ("/j", ""), broken.get) == 0
    assert growth(("/j", ""), ("/i", "v1"), broken.get) == 0


@pytest.mark.parametrize("size", [None, "x", -1, 1e400, [1]])
def test_sizes_that_are_none_break_nothing(size: object) -> None:
    assert growth(("/i", "v1"), ("/i", "v2"), manifests(v1=50, v2=size).get) == 0


def ended(returncode: int, last: str = "", oom: bool = False) -> EndRecord:
    return EndRecord(1.0, classify(returncode, oom=oom, sentence=last), log_tail=f"first words\n{last}\n")


def test_what_a_worker_says_of_an_index_that_finds_no_room_is_understood() -> None:
    with pytest.raises(DeviceFull) as told:
        cloning("wiki", "compact", 10**9, 64, [Memory(0, 10**6, 10**10)])
    assert lacked_room(ended(1, f"loading failed: DeviceFull: {told.value}"))
    with pytest.raises(DeviceUnavailable) as hopeless:
        cloning("wiki", "compact", 10**9, 64, [Memory(0, 10**6, 10**8)])
    assert not lacked_room(ended(78, str(hopeless.value))), "no room will be found by ending others"


@pytest.mark.parametrize(
    ("end", "lacked"),
    [
        (ended(1, "loading failed: DeviceFull: the model m finds no room on cuda:0 now: CUDA out of memory. Tried to"), True),
        (ended(1, "loading failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (ended(1, "loading failed: OSError: [Errno 12] Cannot allocate memory"), True),
        (ended(1, "loading failed: MemoryError: std::bad_alloc"), True),
        (ended(-9, oom=True), True),
        (ended(-9), False),
        (ended(75, "out of memory again and again"), False),
        (ended(78, "the index wiki is damaged: a vector from row 0 on does not fit its copy or norms"), False),
        (ended(78, "the index wiki does not fit cpu: its faiss part has 9 GiB, and this process may use 8 GiB"), False),
        (ended(78, "the index wiki does not exist"), False),
        (ended(1, "no luck"), False),
    ],
)
def test_ends_for_want_of_memory_are_told_from_others(end: EndRecord, lacked: bool) -> None:
    """An index larger than the whole host is not helped by a process that leaves."""
    assert lacked_room(end) is lacked
