"""[P] What may run a model: the backends, what each needs installed, and which dtypes it computes in. Never loads any of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib import metadata

from .errors import ConfigurationError

AUTO = "auto"
TORCH = "torch"
ONNX = "onnx"
OPENVINO = "openvino"
BACKENDS = (TORCH, ONNX, OPENVINO)

FLOAT32 = "float32"

_PACKAGES = {TORCH: ("torch",), ONNX: ("onnxruntime", "onnx", "onnxscript"), OPENVINO: ("openvino", "onnx", "onnxscript")}

_DTYPES = {TORCH: (FLOAT32, "float16", "bfloat16"), ONNX: (FLOAT32, "int8"), OPENVINO: (FLOAT32, "bfloat16")}


def missing(backend: str) -> tuple[str, ...]:
    """Packages that `backend` needs and that are not installed."""
    return tuple(name for name in _PACKAGES[backend] if importlib.util.find_spec(name) is None)


_RUNNING = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnxruntime", "onnx", "onnxscript", "openvino")


def versions(names: Sequence[str] = _RUNNING) -> dict[str, str]:
    """Versions of these packages, as far as installed; of everything that runs, exports or describes a model."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def candidates(backend: str, dtype: str, on_cuda: bool) -> tuple[str, ...]:
    """The backends that may serve `dtype`, the one to use without any measurement first.

    `auto` leaves a choice only where all answers are equal: in float32 on a CPU. Raises `ConfigurationError` for a combination
    that does not exist, or one whose packages are not installed.
    """
    if backend == AUTO:
        return _automatic(dtype, on_cuda)
    if on_cuda and backend != TORCH:
        raise ConfigurationError(f"the {backend} backend runs on cpu here; on a CUDA device use worker.backend torch or auto")
    if dtype not in _DTYPES[backend]:
        raise ConfigurationError(f"the {backend} backend has no dtype {dtype!r}: known are {', '.join(_DTYPES[backend])}")
    if absent := missing(backend):
        raise ConfigurationError(f"the {backend} backend needs {', '.join(absent)}: pip install 'ragpool[{backend}]' brings it")
    return (backend,)


def _automatic(dtype: str, on_cuda: bool) -> tuple[str, ...]:
    able = [backend for backend in BACKENDS if dtype in _DTYPES[backend] and (backend == TORCH or not on_cuda)]
    if not able:
        known = sorted({name for names in _DTYPES.values() for name in names})
        where = "on a CUDA device" if on_cuda and dtype in known else "here"
        raise ConfigurationError(f"the encoder has no dtype {dtype!r} {where}: known are auto, {', '.join(known)}")
    there = [backend for backend in able if not missing(backend)]
    if not there:
        return candidates(able[0], dtype, on_cuda)
    return tuple(there) if dtype == FLOAT32 else (there[0],)
