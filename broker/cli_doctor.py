"""`rag-broker doctor`: what will go wrong, before it does. Each finding is good, a warning, or bad; only bad ones fail."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..conf import devices
from ..conf.cores import usable_cores
from ..conf.endpoints import TcpEndpoint, parse_endpoint
from ..conf.paths import RunPaths
from ..conf.settings import ConfigurationError, Settings
from ..index import calibration, runtimes
from ..index.manifest import Manifest, read_manifest
from ..supervisor.nvml import load_nvml
from ..supervisor.rundir import pool_pid
from .cli_start import resolved
from .sockets import check_exposure

GOOD = "ok"
WARNING = "warning"
BAD = "bad"

_PACKAGES = ("ragpool", "pyzmq", "msgpack", "torch", "sentence-transformers", "transformers", "numpy")
_WORKER_BYTES = 700 * 1024 * 1024
"""Resident memory of a worker on a CPU with all-MiniLM-L6-v2, beside the index that all share (seen: 540 to 615 MB)."""
_FILES_MIN = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    level: str
    subject: str
    told: str


def examine(settings: Settings, paths: RunPaths) -> Iterator[Finding]:
    """All findings, in the order in which a start would meet them."""
    yield Finding(GOOD, "system", f"Python {platform.python_version()} on {platform.system()} {platform.release()}")
    yield from _packages()
    yield from _faiss()
    yield from _runtimes()
    chosen = devices.resolve(settings.pool.devices, os.environ)
    try:
        settings = resolved(settings, chosen)
    except ConfigurationError as error:
        yield Finding(BAD, "devices", str(error))
        settings = replace(settings, pool=replace(settings.pool, devices=chosen, workers=settings.pool.workers or len(chosen)))
    yield from _devices(chosen)
    yield from _device_memory(chosen)
    yield from _memory(settings.pool.workers, chosen)
    yield from _index(settings)
    yield from _run_directory(paths)
    yield from _addresses(settings, paths)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = files < _FILES_MIN
    yield Finding(WARNING if few else GOOD, "files", f"{files} may be open: about as many clients can connect at a time")


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        found = _version(name)
        yield Finding(GOOD if found else BAD, name, found or "is not installed")


def _faiss() -> Iterator[Finding]:
    cpu, gpu = _version("faiss-cpu"), _version("faiss-gpu")
    if cpu and gpu:
        told = f"faiss-cpu {cpu} and faiss-gpu {gpu} are both installed: they share a folder and break each other; uninstall one"
        yield Finding(BAD, "faiss", told)
    elif cpu or gpu:
        yield Finding(GOOD, "faiss", f"faiss-cpu {cpu}" if cpu else f"faiss-gpu {gpu}")
    else:
        yield Finding(WARNING, "faiss", "is not installed: only the exact engine can serve (pip install ragpool[cpu] or [gpu])")


def _runtimes() -> Iterator[Finding]:
    """What may run the model beside torch."""
    versions = runtimes.versions()
    for backend in (runtimes.ONNX, runtimes.OPENVINO):
        absent = runtimes.missing(backend)
        version = versions.get("onnxruntime" if backend == runtimes.ONNX else "openvino", "")
        told = f"needs {', '.join(absent)} (pip install 'ragpool[{backend}]')" if absent else version
        yield Finding(GOOD, f"backend {backend}", told)


def _devices(chosen: tuple[str, ...]) -> Iterator[Finding]:
    import torch

    seen = [f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(torch.cuda.device_count())]
    yield Finding(GOOD, "devices", f"torch {torch.__version__} sees cpu{''.join(', ' + name for name in seen)}")
    for device in dict.fromkeys(chosen):
        number = int(device.partition(":")[2] or 0)
        if device != devices.CPU and number >= len(seen):
            yield Finding(BAD, device, "is wanted, and torch does not see it")


def _device_memory(chosen: tuple[str, ...]) -> Iterator[Finding]:
    """Whether a successor can wait until the memory of a dead worker is free."""
    if all(device == devices.CPU for device in chosen):
        return
    if load_nvml() is not None:
        yield Finding(GOOD, "nvml", f"nvidia-ml-py {_version('nvidia-ml-py')} tells when a dead worker's device memory is free")
    else:
        why = "finds no driver" if _version("nvidia-ml-py") else "is not installed (pip install ragpool[gpu])"
        yield Finding(WARNING, "nvml", f"nvidia-ml-py {why}: a worker is started again without waiting for device memory")


def _memory(count: int, chosen: tuple[str, ...]) -> Iterator[Finding]:
    available = _available_bytes()
    needed = count * _WORKER_BYTES
    told = f"{_gib(available)} available, {count} workers on {', '.join(dict.fromkeys(chosen))} take about {_gib(needed)}"
    yield Finding(BAD if needed > available else GOOD, "memory", told)
    yield Finding(GOOD, "cores", f"{usable_cores()} usable, {max(1, usable_cores() // count)} for each worker")


def _index(settings: Settings) -> Iterator[Finding]:
    if not settings.index.path:
        yield Finding(GOOD, "index", "none given: the built-in demo index is served")
        return
    try:
        manifest = read_manifest(settings.index.path)
    except ConfigurationError as error:
        yield Finding(BAD, "index", str(error))
        return
    told = f"{manifest.count:,} passages x {manifest.dim}, {manifest.type}, built with {manifest.model.name}"
    yield Finding(GOOD, "index", f"{settings.index.path}: {told}")
    yield from _encoding(manifest, settings)


def _encoding(manifest: Manifest, settings: Settings) -> Iterator[Finding]:
    """What can run the index's model as it is asked for, and what calibration chose."""
    worker = settings.worker
    for device in dict.fromkeys(settings.pool.devices):
        try:
            able = runtimes.candidates(worker.backend, worker.dtype, device != devices.CPU)
        except ConfigurationError as error:
            yield Finding(BAD, f"encoder on {device}", str(error))
            continue
        choice = calibration.recall(calibration.of_pool(manifest, settings, device))
        told = f"calibrated: {choice.backend}, batches of up to {choice.max_batch}" if choice else "calibrated at the first start"
        told += f", a flat index by the engine {choice.engine}" if choice and choice.engine else ""
        yield Finding(GOOD, f"encoder on {device}", f"{' or '.join(able)} in {worker.dtype}; {told}")


def _run_directory(paths: RunPaths) -> Iterator[Finding]:
    pid = pool_pid(paths)
    if pid is not None:
        yield Finding(WARNING, "run directory", f"{paths.root} is held by a running pool (pid {pid})")
        return
    folder = paths.root if paths.root.exists() else paths.root.parent
    if not os.access(folder, os.W_OK):
        yield Finding(BAD, "run directory", f"{folder} cannot be written; say --run-dir DIR")
        return
    free = shutil.disk_usage(folder).free
    yield Finding(GOOD if free > 1 << 26 else WARNING, "run directory", f"{paths.root}, {_gib(free)} free")


def _addresses(settings: Settings, paths: RunPaths) -> Iterator[Finding]:
    try:
        check_exposure(settings)
    except ConfigurationError as error:
        yield Finding(BAD, "exposure", str(error))
    for name, endpoint in (("frontend", settings.broker.frontend), ("backend", settings.broker.backend or paths.backend)):
        parsed = parse_endpoint(endpoint)
        taken = isinstance(parsed, TcpEndpoint) and pool_pid(paths) is None and _is_taken(parsed)
        yield Finding(BAD if taken else GOOD, name, f"{endpoint} is in use by another program" if taken else endpoint)


def _is_taken(endpoint: TcpEndpoint) -> bool:
    host = "0.0.0.0" if endpoint.host == "*" else endpoint.host  # asked about, never served on
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), endpoint.port))
        except OSError:
            return True
    return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
