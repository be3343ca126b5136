"""Workers of a host share the pages of the index: no worker has a copy of its own. The cores they do not share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pools import Pool
from ragpool.client import Client
from ragpool.conf.cores import allowed_cores


def mappings(pid: int, folder: Path) -> dict[str, dict[str, int | str]]:
    """By file of `folder`: how it is mapped (`flags`), and the KiB that smaps gives for it."""
    found: dict[str, dict[str, int | str]] = {}
    fields: dict[str, int | str] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            fields = {"flags": words[1]}
            if len(words) > 5 and Path(words[5]).parent == folder:
                found[Path(words[5]).suffix] = fields
        elif words[-1] == "kB":
            fields[words[0][:-1]] = int(words[1])
    return found


def test_index_files_are_mapped_and_nothing_of_them_is_private(pool: Pool, index: Path) -> None:
    with Client(pool.url) as client:
        client.search_many([f"query number {n}" for n in range(64)], top_k=5)
        workers = [worker["pid"] for worker in client.status()["workers"]]
    assert len(workers) == 2
    for pid in workers:
        found = mappings(pid, index.resolve())
        assert {".rows", ".offsets", ".ids", ".f32"} <= set(found)
        for fields in found.values():
            assert fields["flags"] == "r--s"
            assert fields["Private_Dirty"] == fields["Anonymous"] == 0
        assert found[".f32"]["Rss"] > 0


@pytest.mark.skipif(allowed_cores() < 2, reason="needs two cores to share out")
def test_each_worker_keeps_to_cores_of_its_own(pool: Pool) -> None:
    workers = {worker["slot"]: worker["pid"] for worker in pool.status()["workers"]}
    cores = {slot: {frozenset(os.sched_getaffinity(int(thread.name))) for thread in Path(f"/proc/{pid}/task").iterdir()}
             for slot, pid in workers.items()}  # fmt: skip
    (first,), (second,) = cores[0], cores[1]
    assert first | second == os.sched_getaffinity(0)
    assert not first & second
