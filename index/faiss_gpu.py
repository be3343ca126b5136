"""[GPU] A faiss index on one CUDA device, or its rows over several by faiss' own shards. One thread owns it; decides nothing."""

from __future__ import annotations

from typing import Any

import torch

from .devices import bind, memory_of, resolve_device
from .faiss_files import import_faiss_gpu, quantised_bytes, reason
from .placement import Cloning, cloning, putting_failed, spanned
from .store import Index


def clone(part: Any, index: Index, device: str, gpus: int) -> Any:
    """The faiss index `part` of `index` on `device` and the `gpus` - 1 devices after it, which keeps its resources alive.

    Raises `DeviceUnavailable` where it does not fit or faiss has no such index on GPUs, `DeviceFull` where it finds no room now,
    `ConfigurationError` where the installed faiss has no GPU in it.
    """
    faiss = import_faiss_gpu()
    bind(resolve_device(device))
    numbers = spanned(device, gpus, torch.cuda.device_count())
    memory = [memory_of(number) for number in numbers]
    plan = cloning(str(index.path), index.manifest.type, index.manifest.search.part_bytes, quantised_bytes(part), memory)
    try:
        return _cloned(faiss, part, plan)
    except RuntimeError as error:
        raise putting_failed(f"{index.path} ({index.manifest.factory})", device, reason(error)) from None


def _cloned(faiss: Any, part: Any, plan: Cloning) -> Any:
    options = faiss.GpuMultipleClonerOptions() if plan.shard else faiss.GpuClonerOptions()
    options.indicesOptions = faiss.INDICES_64_BIT
    options.useFloat16 = plan.float16_tables
    options.usePrecomputed = False
    options.reserveVecs = 0
    if hasattr(options, "use_cuvs"):
        options.use_cuvs = False
    resources = []
    for _ in plan.devices:
        one = faiss.StandardGpuResources()
        one.setTempMemory(plan.temp_bytes)
        resources.append(one)
    if plan.shard:
        options.shard = True
        cloned = faiss.index_cpu_to_gpu_multiple_py(resources, part, options, list(plan.devices))
    else:
        cloned = faiss.index_cpu_to_gpu(resources[0], plan.devices[0], part, options)
    cloned.referenced_objects = resources
    return cloned
