"""Readings of CUDA devices from NVML (nvidia-ml-py), taken by a thread: a driver that hangs must not stop the parent.

NVML makes no CUDA context and takes no memory of a device. Where the package or a driver is missing there are no readings.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

from .device_memory import Reading

READ_EVERY_S = 0.5


class NvmlMemory(threading.Thread):
    """`nvml` is the module; `visible` is CUDA_VISIBLE_DEVICES, by which "cuda:0" may be another device than NVML's 0."""

    def __init__(self, nvml: Any, devices: Collection[str], visible: str) -> None:
        super().__init__(name="nvml", daemon=True)
        self._nvml = nvml
        self._devices = tuple(devices)
        self._visible = [name.strip() for name in visible.split(",") if name.strip()]
        self._readings: Mapping[str, Reading] = {}

    def reading(self, device: str) -> Reading | None:
        return self._readings.get(device)

    def run(self) -> None:
        while True:
            self._readings = {device: found for device in self._devices if (found := self.read(device)) is not None}
            time.sleep(READ_EVERY_S)

    def read(self, device: str) -> Reading | None:
        """One reading now; None where the driver gives none."""
        try:
            place = self._place(int(device.partition(":")[2] or 0))
            memory = self._nvml.nvmlDeviceGetMemoryInfo(place)
            listed = self._nvml.nvmlDeviceGetComputeRunningProcesses(place)
        except (self._nvml.NVMLError, IndexError, ValueError):
            return None
        by_pid = {process.pid: process.usedGpuMemory or 0 for process in listed}
        return Reading(time.monotonic(), memory.used, memory.total, by_pid)

    def _place(self, number: int) -> Any:
        name = self._visible[number] if self._visible else str(number)
        if name.isdecimal():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)


def start_readings(devices: Collection[str]) -> NvmlMemory | None:
    """Readings of these devices from now on; None where there are no CUDA devices among them, or no NVML."""
    on_cuda = [device for device in dict.fromkeys(devices) if device.startswith("cuda")]
    nvml = load_nvml() if on_cuda else None
    if nvml is None:
        return None
    readings = NvmlMemory(nvml, on_cuda, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    readings.start()
    return readings


def load_nvml() -> Any:
    """The module, initialised; None where the package or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
