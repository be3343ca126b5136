"""How busy a CUDA device is while something runs, as NVML sees it."""

from __future__ import annotations

import os
import statistics
import threading
from typing import Any

SAMPLE_S = 0.1


class Utilisation:
    """Samples of NVML's utilisation in per cent, of one device, while it is entered; none where NVML is not there."""

    def __init__(self, device: str) -> None:
        self.samples: list[int] = []
        self._number = int(device.partition(":")[2] or 0) if device.startswith("cuda") else None
        self._stop = threading.Event()

    def __enter__(self) -> Utilisation:
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        if self._number is None:
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = _as_cuda_counts(pynvml, self._number)
        except Exception:  # no package or no driver: a column stays empty
            return
        while not self._stop.wait(SAMPLE_S):
            self.samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)

    def __str__(self) -> str:
        return f"{statistics.median(self.samples)} %" if self.samples else "unknown"


def _as_cuda_counts(nvml: Any, number: int) -> Any:
    """NVML's device of a CUDA number: CUDA_VISIBLE_DEVICES counts for CUDA alone."""
    named = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    name = named[number] if named else str(number)
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(name)
