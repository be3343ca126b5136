"""[GPU] Device names, and whether this process sees the device. A device that is not there is an error, never another device."""

from __future__ import annotations

import re

import torch

from .errors import DeviceUnavailable
from .placement import Memory

_NAME = re.compile(r"cpu|cuda(?::(0|[1-9][0-9]{0,3}))?|auto")


def resolve_device(name: str) -> torch.device:
    """`cpu`, `cuda:N`, `cuda` (= cuda:0) or `auto` (the first CUDA device, else cpu). Raises `DeviceUnavailable`."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise DeviceUnavailable(f"{name!r} is no device: known are cpu, cuda, cuda:N and auto")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not seen):
        return torch.device("cpu")
    number = int(match[1] or 0)
    if number >= seen:
        raise DeviceUnavailable(f"there is no device {name} here: seen are {', '.join(devices_seen())}")
    return torch.device("cuda", number)


def devices_seen() -> list[str]:
    """Names of the devices of this process."""
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(f"cuda:{number}" for number in range(seen))]


def bind(device: torch.device) -> None:
    """Makes `device` the current one of this process, and products on it as exact as the engine's bound assumes."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_tf32 = False


def memory_of(number: int) -> Memory:
    """Of a CUDA device, now; what torch holds there and does not use is given back first."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(torch.device("cuda", number))
    return Memory(number, int(free), int(total))
