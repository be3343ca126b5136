"""[P] Whether an index fits where it is to stand, and how faiss is to put it on CUDA devices. Nothing is ever put elsewhere
instead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DeviceUnavailable
from .index_types import size

TEMP_BYTES = 256 << 20
"""Scratch memory of faiss on one device; its own default takes 1.5 GiB whatever the index."""

WORKSPACE_BYTES = 256 << 20
"""Left free beside index and scratch: the model of the worker is there already, batches of it come and go."""

_CLONED = 1.1
"""Lists on a device are padded."""


@dataclass(frozen=True, slots=True)
class Cloning:
    """Explicit options for faiss' cloner. `shard`: each device holds a share of the rows; `float16_tables`: look-up tables of
    product quantisers in half precision, which those of more than 48 bytes need to fit a block's shared memory."""

    devices: tuple[int, ...]
    shard: bool
    float16_tables: bool
    temp_bytes: int = TEMP_BYTES


def cloning(where: str, kind: str, part_bytes: int, code_bytes: int, devices: Sequence[int], free: Sequence[int]) -> Cloning:
    """How to put an index of `part_bytes` on `devices`, of which so many bytes are `free`. `kind` is its index type.

    Raises `DeviceUnavailable` where faiss has no such index on GPUs, or a share does not fit one of the devices.
    """
    if kind == "hnsw":
        raise DeviceUnavailable(
            f"the index {where} is a graph (hnsw), which faiss searches on cpu only: set index.gpu = false to keep it "
            f"there, or build "
            "--type compact or flat"
        )
    need = int(part_bytes * _CLONED / len(devices)) + TEMP_BYTES + WORKSPACE_BYTES
    for device, room in zip(devices, free, strict=True):
        if need > room:
            share = "its share of it" if len(devices) > 1 else "it"
            raise DeviceUnavailable(
                f"the index {where} does not fit cuda:{device}: {share} needs {size(need)} with scratch memory, and "
                f"{size(room)} are "
                f"free; spread it over more devices (index.gpus_per_worker), build --type compact with fewer --bytes-per-vector, "
                f"or keep it off the device (index.gpu = false)"
            )
    return Cloning(tuple(devices), len(devices) > 1, code_bytes > 48)


def spanned(device: str, gpus: int, seen: int) -> tuple[int, ...]:
    """The numbers of the devices that the index of a worker on `device` spans: its own and the following, of `seen` in all.

    Raises `DeviceUnavailable` where there are not so many.
    """
    first = int(device.partition(":")[2] or 0)
    if first + gpus > seen:
        raise DeviceUnavailable(
            f"index.gpus_per_worker is {gpus} and the worker on {device} sees {seen} CUDA devices: cuda:{first} to "
            f"cuda:{first + gpus - 1} are not all there"
        )
    return tuple(range(first, first + gpus))


def check_memory(where: str, part_bytes: int, memory_bytes: int) -> None:
    """Raises `DeviceUnavailable` where the part of an index is larger than the memory this process may use: mapped or not, it is
    read at random, and would be read from disk again and again."""
    if part_bytes > memory_bytes:
        raise DeviceUnavailable(
            f"the index {where} does not fit cpu: its faiss part has {size(part_bytes)}, and this process may use "
            f"{size(memory_bytes)}; "
            "build --type compact with fewer --bytes-per-vector, or flat, or use a larger machine"
        )


def memory_limit() -> int:
    """Bytes this process may use: the machine's memory or the limit of its control group."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def memory_free() -> int:
    """Bytes this process may still take: what the machine has available, within its control group."""
    free = memory_limit()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = min(free, next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration, ValueError):
        pass
    return free
