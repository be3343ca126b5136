"""Which CUDA devices this process may use, asked of the kernel and the environment: the parent of a pool never loads CUDA."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .settings import ConfigurationError, IndexSettings, Settings

AUTO = "auto"
CPU = "cpu"

_NODE = re.compile(r"nvidia\d+")


def cuda_devices(nodes: Iterable[str], environ: Mapping[str, str]) -> int:
    """How many devices CUDA would show: the nodes of /dev named in `nodes`, as CUDA_VISIBLE_DEVICES narrows them down."""
    present = sum(1 for node in nodes if _NODE.fullmatch(node))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    named = [word.strip() for word in visible.split(",")]
    # CUDA reads the list up to the first entry that names no device
    shown = next((position for position, word in enumerate(named) if not _names_one(word, present)), len(named))
    return min(present, shown)


def _names_one(word: str, present: int) -> bool:
    return int(word) < present if word.isdecimal() else word.startswith(("GPU-", "MIG-"))


def resolve(devices: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, ...]:
    """`devices` with "auto" replaced by every CUDA device there is, else by cpu."""
    if devices != (AUTO,):
        return devices
    return tuple(f"cuda:{number}" for number in range(seen(environ))) or (CPU,)


def seen(environ: Mapping[str, str]) -> int:
    """How many CUDA devices this process may use."""
    return cuda_devices(os.listdir("/dev") if Path("/dev").is_dir() else (), environ)


def groups(devices: tuple[str, ...], index: IndexSettings) -> tuple[tuple[str, ...], ...]:
    """`devices`, resolved, as the index of one worker after the other spans them: `index.gpus_per_worker` CUDA devices each, in
    their order, but only where it stands on the device at all (`index.gpu`); a cpu device is a group of its own.

    Raises `ConfigurationError` where they cannot be divided so, or a group's numbers do not follow each other: a worker is told
    its first device, and spans those after it.
    """
    size = index.gpus_per_worker if index.gpu else 1
    on_cuda = [device for device in devices if device != CPU]
    if size == 1 or not on_cuda:
        return tuple((device,) for device in devices)
    told = f"index.gpus_per_worker is {size} and the devices of the pool are {', '.join(devices)}"
    if len(on_cuda) % size:
        raise ConfigurationError(f"{told}: name as many CUDA devices as can be divided into groups of {size}")
    cut = [tuple(on_cuda[first : first + size]) for first in range(0, len(on_cuda), size)]
    for group in cut:
        if [_number(device) for device in group] != list(range(_number(group[0]), _number(group[0]) + size)):
            raise ConfigurationError(f"{told}: one worker would span {', '.join(group)}, whose numbers must follow each other")
    return (*cut, *((CPU,) for device in devices if device == CPU))


def placed(devices: tuple[str, ...], index: IndexSettings) -> tuple[str, ...]:
    """The devices that workers are told, slot after slot in turn: the first of each group. Raises as `groups`."""
    return tuple(group[0] for group in groups(devices, index))


def sharing(settings: Settings, device: str) -> int:
    """How many workers of a pool whose `settings` are resolved put their index on a device of the group that begins with
    `device`: of its devices the one with the most."""
    cut = groups(settings.pool.devices, settings.index)
    own = next((group for group in cut if group[0] == device), (device,))
    slots = [cut[slot % len(cut)] for slot in range(settings.pool.workers)]
    return max(1, max(sum(part in group for group in slots) for part in own))


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def worker_count(wanted: int, told: tuple[str, ...], cores: int) -> int:
    """Workers of a pool: `wanted`, or where that is 0 one for each CUDA device that one is `told` (the first of a group), on cpu
    one for each usable core, at most 4."""
    if wanted:
        return wanted
    on_cuda = sum(1 for device in told if device != CPU)
    return on_cuda or max(1, min(cores, 4))


def resolve_dtype(dtype: str, devices: tuple[str, ...]) -> str:
    """One dtype for all workers of a pool: "auto" is float16 where every device is CUDA, else float32."""
    if dtype != AUTO:
        return dtype
    return "float32" if CPU in devices else "float16"
