"""[GPU] Starts a loaded model on a backend, and proves that it gives the model's own vectors before anybody is served by it.

Where the backend is a free choice, one that fails is passed over with the reason in the log; where it was asked for, the reason
is the error.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .errors import ModelUnusable
from .export import exported
from .model_loading import LoadedModel, first_line
from .packed import pack
from .running import Features, Running, RunningOnnx, RunningOpenvino, RunningTorch
from .runtimes import FLOAT32, ONNX, TORCH
from .tokens import padded, tokenize
from .unpadded import NotUnpadded, RunningUnpadded

PROBES = (
    "what is the first question",
    "",
    "a passage of some length, about cats and dogs and the weather in the north of Norway, " * 4,
    "Ünïcödé ✓ 漢字 and 1,234.5 numbers",
)
"""Of different lengths, so that padding is part of what is compared."""

ERROR_MAX = {FLOAT32: 1e-4, "bfloat16": 0.1, "float16": 0.02, "int8": 0.5}
"""The largest distance of a probe's vector, brought to length 1, from the one that torch computes in float32."""

log = logging.getLogger(__name__)


def start(
    loaded: LoadedModel, tokenizer: Any, device: torch.device, dtype: str, order: Sequence[str], cache_dir: Path | None = None
) -> Running:
    """The model on the first backend of `order` that can serve it in `dtype`. `tokenizer` None: it tokenizes by itself.

    Raises `ModelUnusable` with the reason of the last one.
    """
    reason = ModelUnusable(f"no backend can run the model {loaded.name}")
    for position, backend in enumerate(order):
        try:
            if backend == TORCH:
                return _on_torch(loaded, tokenizer, device)
            return _on_graph(loaded, tokenizer, backend, dtype, cache_dir)
        except ModelUnusable as error:
            reason = error
            if position + 1 < len(order):
                log.warning("the %s backend is passed over: %s", backend, error)
    raise reason


def _on_torch(loaded: LoadedModel, tokenizer: Any, device: torch.device) -> Running:
    running = RunningTorch(loaded.model, device)
    if device.type != "cpu" or loaded.dtype != FLOAT32 or tokenizer is None:
        return running
    features = _probes(loaded, tokenizer)
    truth = _truth(loaded, running, features)
    if (unpadded := _unpadded(loaded, truth, features)) is not None:
        return unpadded
    put_back = pack(loaded.model)
    try:
        _compare(loaded, "torch with oneDNN's layers", FLOAT32, truth, running, features)
    except ModelUnusable as error:
        put_back()
        log.warning("linear layers are left as they were: %s", error)
    return running


def _unpadded(loaded: LoadedModel, truth: torch.Tensor, features: list[Features]) -> RunningUnpadded | None:
    """The model without padding, None where that cannot be or gives other vectors."""
    try:
        running = RunningUnpadded(loaded.model)
        _compare(loaded, "torch without padding", FLOAT32, truth, running, features)
        return running
    except NotUnpadded as error:
        log.debug("the model %s runs with its padding: %s", loaded.name, error)
    except ModelUnusable as error:
        log.warning("the model %s runs with its padding: %s", loaded.name, error)
    return None


def _on_graph(loaded: LoadedModel, tokenizer: Any, backend: str, dtype: str, cache_dir: Path | None) -> Running:
    if tokenizer is None:
        raise ModelUnusable(f"the model {loaded.name} tokenizes or pools by rules of its own: only the torch backend serves it")
    features = _probes(loaded, tokenizer)
    truth = _truth(loaded, RunningTorch(loaded.model, torch.device("cpu")), features)
    threads = torch.get_num_threads()
    path = exported(loaded, tokenizer, "int8" if dtype == "int8" else FLOAT32, cache_dir)
    try:
        running = RunningOnnx(path, threads) if backend == ONNX else RunningOpenvino(path, threads, dtype)
    except Exception as error:  # whatever a runtime makes of a graph that it does not know
        raise ModelUnusable(f"{backend} cannot run the model {loaded.name}: {first_line(error)}") from None
    _compare(loaded, backend, dtype, truth, running, features)
    return running


def _probes(loaded: LoadedModel, tokenizer: Any) -> list[Features]:
    """All probes as one padded batch, and the first alone."""
    cpu = torch.device("cpu")
    ids = tokenize(tokenizer, PROBES, loaded.max_length).ids
    return [padded(tokenizer, ids, cpu), padded(tokenizer, ids[:1], cpu)]


def _vectors(running: Running, features: list[Features]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.nn.functional.normalize(torch.cat([running.run(batch) for batch in features]), dim=1)


def _truth(loaded: LoadedModel, running: Running, features: list[Features]) -> torch.Tensor:
    """What the library's own modules make of the probes."""
    try:
        return _vectors(running, features)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # modules that want what only the library's own `encode` gives them, or that do not fit together
        if "allocate memory" in str(error):  # torch's own words for want of it on a CPU
            raise
        raise ModelUnusable(f"the model {loaded.name} cannot encode: {type(error).__name__}: {first_line(error)}") from None


def _compare(
    loaded: LoadedModel, backend: str, dtype: str, truth: torch.Tensor, running: Running, features: list[Features]
) -> None:
    try:
        vectors = _vectors(running, features)
    except Exception as error:  # a graph may load and fail all the same
        raise ModelUnusable(f"{backend} cannot run the model {loaded.name}: {first_line(error)}") from None
    if vectors.shape != truth.shape:
        raise ModelUnusable(f"{backend} gives vectors of another shape than torch for the model {loaded.name}")
    error_max = float((vectors - truth).norm(dim=1).max())
    if not error_max <= ERROR_MAX[dtype]:
        raise ModelUnusable(
            f"{backend} gives other vectors than torch for the model {loaded.name} in {dtype}: "
            f"they differ by {error_max:.2g}, allowed is {ERROR_MAX[dtype]:g}"
        )
