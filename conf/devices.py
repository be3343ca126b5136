"""Which CUDA devices this process may use, asked of the kernel and the environment: the parent of a pool never loads CUDA."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

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
    shown = next((position for position, word in enumerate(named) if not word or word.startswith("-")), len(named))
    return min(present, shown)


def resolve(devices: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, ...]:
    """`devices` with "auto" replaced by every CUDA device there is, else by cpu."""
    if devices != (AUTO,):
        return devices
    count = cuda_devices(os.listdir("/dev") if Path("/dev").is_dir() else (), environ)
    return tuple(f"cuda:{number}" for number in range(count)) or (CPU,)


def worker_count(wanted: int, devices: tuple[str, ...], cores: int) -> int:
    """Workers of a pool: `wanted`, or where that is 0 one for each CUDA device, on cpu one for each usable core, at most 4."""
    if wanted:
        return wanted
    on_cuda = sum(1 for device in devices if device != CPU)
    return on_cuda or max(1, min(cores, 4))


def resolve_dtype(dtype: str, devices: tuple[str, ...]) -> str:
    """One dtype for all workers of a pool: "auto" is float16 where every device is CUDA, else float32."""
    if dtype != AUTO:
        return dtype
    return "float32" if CPU in devices else "float16"
