"""[GPU] A faiss index on one CUDA device, or its rows over several by faiss' own shards. One thread owns it; decides nothing."""

from __future__ import annotations

from typing import Any

import torch

from .devices import bind, free_bytes, resolve_device
from .errors import ConfigurationError, DeviceUnavailable
from .faiss_files import import_faiss, reason
from .placement import Cloning, cloning, spanned
from .store import Index


def clone(part: Any, index: Index, device: str, gpus: int) -> Any:
    """The faiss index `part` of `index` on `device` and the `gpus` - 1 devices after it, which keeps its resources alive.

    Raises `DeviceUnavailable` where it does not fit or faiss has no such index on GPUs, `ConfigurationError` where the installed
    faiss has no GPU in it.
    """
    faiss = import_faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        raise ConfigurationError(
            "the installed faiss cannot use CUDA: install ragpool[gpu] in place of ragpool[cpu], or keep the index off the "
            "device (index.gpu = false)"
        )
    bind(resolve_device(device))
    numbers = spanned(device, gpus, torch.cuda.device_count())
    free = [free_bytes(torch.device("cuda", number))[0] for number in numbers]
    facts = index.manifest.search
    plan = cloning(str(index.path), index.manifest.type, facts.part_bytes, facts.part_bytes // index.count, numbers, free)
    try:
        return _cloned(faiss, part, plan)
    except RuntimeError as error:
        raise DeviceUnavailable(
            f"faiss cannot put the index {index.path} ({index.manifest.factory}) on {device}: {reason(error)}; keep it off the "
            f"device (index.gpu = false)"
        ) from None


def _cloned(faiss: Any, part: Any, plan: Cloning) -> Any:
    options = faiss.GpuMultipleClonerOptions() if plan.shard else faiss.GpuClonerOptions()
    options.indicesOptions = faiss.INDICES_64_BIT
    options.useFloat16 = plan.float16_tables
    options.usePrecomputed = False
    options.reserveVecs = 0
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
