"""[P] Whether an index fits where it is to stand, and how faiss is to put it on CUDA devices. Nothing is ever put elsewhere
instead. What is larger than the device is the operator's to mend; what only finds no room now is worth a retry. Memory is an
argument: `memory_limit` and `memory_free` alone ask the kernel for it, and nothing else here calls them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..conf.cores import read_text
from ..conf.devices import CPU
from ..conf.memory import host_free, host_total
from .errors import DeviceFull, DeviceUnavailable
from .index_types import HNSW, size

TEMP_BYTES = 256 << 20
"""Scratch memory of faiss on one device; its own default takes 1.5 GiB whatever the index."""

WORKSPACE_BYTES = 256 << 20
"""Left free beside index and scratch: the model of the worker is there already, batches of it come and go."""

PROCESS_BYTES = 1 << 30
"""What another worker takes on a device beside its index: CUDA's own, the model, batches."""

PAGES_BYTES = 384 << 20
"""faiss adds rows page by page: 256 MiB of them in float32, and the same rows in float16."""

NORM_BYTES = 8
"""faiss keeps the norm of each row, and computes it from another float32."""

_UNKNOWN = sys.maxsize
"""No limit, where the system tells none: it will say so itself."""

_CLONED = 1.1
"""Lists on a device are padded."""

_SHORTAGES = ("out of memory", "alloc fail")
_BROKEN = ("cuda error", "cublas")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of CUDA device `number`."""

    number: int
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Cloning:
    """Explicit options for faiss' cloner. `shard`: each device holds a share of the rows; `float16_tables`: look-up tables of
    product quantisers in half precision, which those of more than 48 bytes need to fit a block's shared memory."""

    devices: tuple[int, ...]
    shard: bool
    float16_tables: bool
    temp_bytes: int = TEMP_BYTES


def engine_device(kind: str, device: str, gpu: bool) -> str:
    """Where an evaluation that encodes on `device` searches an index of type `kind`: there too if `gpu`, as a worker does; a
    graph, which workers on CUDA devices refuse, on cpu."""
    return device if gpu and kind != HNSW else CPU


def cloning(where: str, kind: str, part_bytes: int, code_bytes: int, devices: Sequence[Memory]) -> Cloning:
    """How to put an index of `part_bytes` on `devices`. `kind` is its index type, `code_bytes` what its product quantiser
    makes of a row, 0 without one.

    Raises `DeviceUnavailable` where faiss has no such index on GPUs, or a share is larger than one of the devices, `DeviceFull`
    where that has no room now.
    """
    if kind == HNSW:
        raise DeviceUnavailable(
            f"the index {where} is a graph (hnsw), which faiss searches on cpu only: set index.gpu = false to keep it "
            "there, or build --type compact or flat"
        )
    need = int(part_bytes * _CLONED / len(devices))
    for device in devices:
        check_room(where, need, device, "build --type compact with fewer --bytes-per-vector")
    return Cloning(tuple(device.number for device in devices), len(devices) > 1, code_bytes > 48)


def flat_bytes(count: int, dim: int, devices: int, by_faiss: bool) -> int:
    """Bytes that the half-precision rows of a flat index take on each of its devices while they are put there."""
    rows = -(-count // devices)
    return rows * 2 * dim + (rows * NORM_BYTES + PAGES_BYTES if by_faiss else 0)


def check_room(where: str, need: int, device: Memory, choice: str) -> None:
    """Raises `DeviceUnavailable` where what needs so many bytes beside scratch memory is larger than the device, `DeviceFull`
    where they are not free now. `choice`: a smaller index, in words."""
    need += TEMP_BYTES + WORKSPACE_BYTES
    if need > device.total:
        raise DeviceUnavailable(
            f"the index {where} does not fit cuda:{device.number}: its rows there need {size(need)} with scratch memory, and the "
            f"device has {size(device.total)}; use a larger device, spread it over more (index.gpus_per_worker), {choice}, or "
            f"keep it off the device (index.gpu = false)"
        )
    if need > device.free:
        raise DeviceFull(
            f"the index {where} finds no room on cuda:{device.number} now: its rows there need {size(need)} with scratch memory, "
            f"and {size(device.free)} of {size(device.total)} are free"
        )


def takes_full(half: int, full: int, sharing: int, device: Memory) -> bool:
    """Whether the float32 rows of a flat index, `full` bytes, are to stand on its device beside the `half` that are there now:
    `sharing` workers put the same on that device, and none may find it taken by another's float32 rows."""
    each = half + full + TEMP_BYTES + WORKSPACE_BYTES + PROCESS_BYTES
    return sharing * each <= device.total and full + WORKSPACE_BYTES <= device.free


def putting_failed(where: str, device: str, told: str) -> Exception:
    """What it means that faiss could not put an index on a device, by its words `told`: no room now, a device that is broken, or
    an index that it has no code for."""
    if any(words in told.lower() for words in _SHORTAGES):
        return DeviceFull(f"the index {where} finds no room on {device} now: {told}")
    if any(words in told.lower() for words in _BROKEN):
        return RuntimeError(f"{device}: {told}")
    return DeviceUnavailable(
        f"faiss cannot put the index {where} on {device}: {told}; keep it off the device (index.gpu = false)"
    )


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


def check_memory(where: str, what: str, need: int, memory_bytes: int) -> None:
    """Raises `DeviceUnavailable` where `what` of an index, all of which searches read again and again, is larger than the memory
    this process may use: mapped or not, it would be read from disk each time."""
    if need > memory_bytes:
        raise DeviceUnavailable(
            f"the index {where} does not fit cpu: {what} take {size(need)}, and this process may use {size(memory_bytes)}; "
            "build --type compact, with fewer --bytes-per-vector where it is that already, or use a larger machine"
        )


def memory_limit() -> int:
    """Bytes this process may use: the machine's memory or the limit of its control groups."""
    return host_total(read_text) or _UNKNOWN


def memory_free() -> int:
    """Bytes this process may still take: what the machine has available, and its control groups have left."""
    free = host_free(read_text)
    return memory_limit() if free is None else max(0, free)
