"""What calibration found fastest, remembered by all that it depends on. It chooses speed, never answers. Never loads torch.

Whoever serves only recalls; measuring is `calibrate`'s, once, before a pool starts. A record that cannot be read or kept costs
the defaults and a sentence in the log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..conf.cores import usable_cores
from ..conf.settings import Settings
from .demo import cache_folder
from .engine import EXACT, FAISS
from .manifest import Manifest
from .runtimes import AUTO as AUTO
from .runtimes import BACKENDS, versions

GENERATION = 5
"""To be raised when a backend or an engine of ours gets faster or slower: what was measured before does not hold any more."""

RECORDS = "calibration.json"
_LOCK = "calibration.lock"
_KEPT_MAX = 200
_MAX_BATCH = 1 << 16
_DRIVER = Path("/proc/driver/nvidia/gpus")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend to use, the most queries of one batch that pay, and tokens a second of each (backend, batch) measured.

    On a CUDA device also the engine of flat indexes, and milliseconds of each (engine, batch); "" where none was measured.
    """

    backend: str
    max_batch: int
    measured: Mapping[str, float]
    engine: str = ""
    searched: Mapping[str, float] = field(default_factory=dict)


def setup(fingerprint: str, device: str, dtype: str, backend: str, threads: int) -> dict[str, Any]:
    """Everything that a choice depends on. `fingerprint` is the model's, `backend` what was asked for (auto or one)."""
    return {
        "generation": GENERATION,
        "device": "cpu" if device == "cpu" else "cuda",
        "processor": _gpu_name(device) if device != "cpu" else _cpu_name(),
        "cores": usable_cores(),
        "threads": threads,
        "versions": versions() if device == "cpu" else versions() | versions(("faiss-gpu",)),
        "model": fingerprint,
        "dtype": dtype,
        "backend": backend,
    }


def of_pool(manifest: Manifest, settings: Settings, device: str) -> dict[str, Any]:
    """The setup of the workers on `device` of a pool that serves `manifest`; `settings` say how many, in what dtype."""
    threads = max(1, usable_cores() // max(1, settings.pool.workers))
    return setup(manifest.model.sha256, device, settings.worker.dtype, settings.worker.backend, threads)


def preferred(able: tuple[str, ...], choice: Choice | None) -> tuple[str, ...]:
    """`able` with the backend of `choice` first; without a choice as it stands."""
    if choice is None or choice.backend not in able:
        return able
    return (choice.backend, *(backend for backend in able if backend != choice.backend))


def recall(wanted: Mapping[str, Any], cache_dir: Path | None = None) -> Choice | None:
    """What was found for this setup; None where nothing was, or what was kept is damaged."""
    path = (cache_dir or cache_folder()) / RECORDS
    found = _records(path).get(_key(wanted))
    if found is None:
        return None
    choice = _choice(found)
    if choice is None:
        log.warning("the calibration kept in %s is damaged: defaults are used", path)
    return choice


def remember(wanted: Mapping[str, Any], choice: Choice, cache_dir: Path | None = None) -> bool:
    """Keeps `choice`; False, with a sentence in the log, where it cannot be kept. Wants `calibrating` to be held."""
    path = (cache_dir or cache_folder()) / RECORDS
    kept = {key: value for key, value in _records(path).items() if key != _key(wanted)}
    kept[_key(wanted)] = {"setup": dict(wanted), **dataclasses.asdict(choice)}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(dict(list(kept.items())[-_KEPT_MAX:]), indent=1), encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        log.warning("the calibration cannot be kept in %s (%s): defaults are used", path, error.strerror or error)
        return False
    return True


@contextlib.contextmanager
def calibrating(cache_dir: Path | None = None) -> Iterator[None]:
    """Held by the one process of this host that measures: two at a time would measure each other. Raises OSError."""
    folder = cache_dir or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _choice(found: object) -> Choice | None:
    if not isinstance(found, dict):
        return None
    backend, max_batch, engine = found.get("backend"), found.get("max_batch"), found.get("engine")
    measured, searched = _figures(found.get("measured")), _figures(found.get("searched"))
    if backend not in BACKENDS or type(max_batch) is not int or not 1 <= max_batch <= _MAX_BATCH:
        return None
    if engine not in ("", EXACT, FAISS) or measured is None or searched is None:
        return None
    return Choice(backend, max_batch, measured, engine, searched)


def _figures(given: object) -> dict[str, float] | None:
    if not isinstance(given, dict) or not all(type(figure) in (float, int) for figure in given.values()):
        return None
    try:
        return {str(name): float(figure) for name, figure in given.items()}
    except OverflowError:
        return None


def _records(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("the calibration kept in %s cannot be read (%s): defaults are used", path, type(error).__name__)
        return {}
    return known if isinstance(known, dict) else {}


def _key(wanted: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:24]


def _cpu_name() -> str:
    """The processor's name and model numbers: some hypervisors give the same name to all of them."""
    told: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    named = [told[name] for name in ("model name", "cpu family", "model", "stepping") if name in told]
    return " ".join(named) or platform.processor() or platform.machine()


def _gpu_name(device: str) -> str:
    """The names of all GPUs of this host where they have one; where they differ, or are shared out or unknown, the number of the
    CUDA device too, with all that says which of them it is: CUDA, which alone could tell, is not loaded here."""
    names = _gpu_names()
    visible, order = (os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"))
    if len(set(names)) == 1 and "MIG-" not in visible:
        return ", ".join(names)
    return f"cuda:{device.partition(':')[2] or 0} of {', '.join(names) or 'unknown'}, visible {visible!r}, order {order!r}"


def _gpu_names() -> list[str]:
    """In the order of the PCI bus, as the driver tells them."""
    names = []
    for file in sorted(_DRIVER.glob("*/information")):
        with contextlib.suppress(OSError):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names
