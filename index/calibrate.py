"""[GPU] Measures which backend, and how large a batch, encodes queries fastest here, and on a CUDA device which engine searches
them sooner: once for each setup, in bounded time.

Only modes with equal answers compete. It measures and remembers; who serves recalls. Never run by a worker.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import runtimes
from .calibration import Choice, calibrating, recall, remember, setup
from .devices import bind, resolve_device
from .encoder import SentenceEncoder, load_encoder
from .engine_trial import Rates, sooner, try_engines
from .errors import ConfigurationError
from .model_loading import choose_dtype

MEASURE_S = 3.0
"""All measuring together; loading and a first export come before."""

BATCHES = {"cpu": (4, 8, 16, 32), "cuda": (32, 64, 128, 256, 512)}

BESIDE_S = {"cpu": 0.004, "cuda": 0.0}
"""What a batch costs beside its encoding, in seconds: it is handed over, and its queries pass over all rows once. Batches of 32
instead of 16 made 7 % more queries a second on two cores (29k rows), though both encode alike. On CUDA the stages overlap."""

GOOD_ENOUGH = 0.97
"""The smallest batch that reaches this part of the best rate is taken: it answers sooner."""

_WORDS = (
    "what",
    "is",
    "the",
    "name",
    "of",
    "that",
    "old",
    "river",
    "between",
    "large",
    "cities",
    "and",
    "who",
    "crossed",
    "it",
    "a",
)
_LENGTHS = (6, 9, 7, 12, 8, 10, 5, 15, 9, 8, 11, 7, 18, 9, 6, 10)
"""Words in a query: the lengths of questions that people ask."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """`choice`, for what setup, why backends were passed over, whether it was measured now, and whether it could be kept."""

    choice: Choice
    setup: Mapping[str, Any]
    passed_over: tuple[str, ...]
    fresh: bool
    kept: bool


def calibrate(
    model: str,
    device: str,
    dtype: str = "auto",
    backend: str = runtimes.AUTO,
    *,
    cache_dir: Path | None = None,
    again: bool = False,
) -> Calibrated:
    """The choice for this model on this device, measured if it is not remembered or `again`. Uses the threads torch has.

    Raises as `load_encoder`, and `ConfigurationError` where the cache folder cannot be written.
    """
    where = resolve_device(device)
    bind(where)
    chosen = choose_dtype(dtype, where)
    able = runtimes.candidates(backend, chosen, where.type == "cuda")
    try:
        with calibrating(cache_dir):
            return _calibrate(model, where, chosen, backend, able, cache_dir, again)
    except OSError as error:
        raise ConfigurationError(f"the calibration cannot be kept: {error.strerror or error}; defaults are used") from None


def _calibrate(
    model: str, where: torch.device, dtype: str, backend: str, able: Sequence[str], cache_dir: Path | None, again: bool
) -> Calibrated:
    encoders: list[SentenceEncoder] = []
    passed_over: list[str] = []
    for name in able:
        try:
            encoder = load_encoder(model, str(where), dtype, backend=name)
        except ConfigurationError as error:
            if len(able) == 1:
                raise
            passed_over.append(f"{name}: {error}")
            continue
        wanted = setup(encoder.fingerprint, str(where), dtype, backend, torch.get_num_threads())
        known = None if again else recall(wanted, cache_dir)
        if known is not None:
            return Calibrated(known, wanted, (), fresh=False, kept=True)
        encoders.append(encoder)
    if not encoders:
        raise ConfigurationError(f"no backend can serve the model {model}: {'; '.join(passed_over)}")
    choice = choose(measure(encoders, BATCHES[where.type]))
    wanted = setup(encoders[0].fingerprint, str(where), dtype, backend, torch.get_num_threads())
    if where.type == "cuda":
        dim = encoders[0].dim
        choice = with_engine(choice, wanted, lambda: try_engines(dim, where), cache_dir)
    return Calibrated(choice, wanted, tuple(passed_over), fresh=True, kept=remember(wanted, choice, cache_dir))


def measure(
    encoders: Sequence[SentenceEncoder], sizes: Sequence[int], budget_s: float = MEASURE_S
) -> dict[tuple[str, int], float]:
    """Tokens a second of each (backend, batch), `BESIDE_S` a batch counted in: the best of interleaved rounds of one batch each,
    until `budget_s` is over.

    Workers of one thread are measured in seconds of CPU time, which what else the machine does hardly bends.
    A model so slow that not even one round fits is judged by its smaller batches.
    """
    clock = time.process_time if torch.get_num_threads() == 1 and encoders[0].device == "cpu" else time.perf_counter
    beside_s = BESIDE_S[encoders[0].device.partition(":")[0]]
    queries = sample_queries(max(sizes))
    ends = time.perf_counter() + budget_s
    rates: dict[tuple[str, int], float] = {}
    while True:
        for size in sorted(sizes):
            for encoder in encoders:
                began = clock()
                tokens = sum(encoder.encode(queries[:size]).tokens)
                rate = tokens / (max(clock() - began, 1e-6) + beside_s)
                rates[encoder.backend, size] = max(rate, rates.get((encoder.backend, size), 0.0))
            if time.perf_counter() >= ends:
                return rates


def choose(rates: Mapping[tuple[str, int], float]) -> Choice:
    """The backend with the best rate, and its smallest batch that is good enough."""
    backend, _ = max(rates, key=lambda pair: rates[pair])
    enough = GOOD_ENOUGH * max(rates.values())
    size = min(size for (name, size), rate in rates.items() if name == backend and rate >= enough)
    return Choice(backend, size, {f"{name} {size}": round(rate, 1) for (name, size), rate in sorted(rates.items())})


def with_engine(choice: Choice, wanted: Mapping[str, Any], trial: Callable[[], Rates], cache_dir: Path | None) -> Choice:
    """`choice` with the engine that `trial`, seconds by (engine, batch), speaks for. Before it runs EXACT is kept for the setup
    `wanted`: that stands should the trial end this process."""
    remember(wanted, dataclasses.replace(choice, engine=sooner({})), cache_dir)
    seconds = trial()
    told = {f"{name} {size}": round(1e3 * took, 3) for (name, size), took in sorted(seconds.items())}
    return dataclasses.replace(choice, engine=sooner(seconds), searched=told)


def sample_queries(count: int) -> list[str]:
    """`count` different queries of the usual lengths."""
    return [
        " ".join(_WORDS[(number * 7 + place * 5) % len(_WORDS)] for place in range(_LENGTHS[number % len(_LENGTHS)]))
        + f" {number}"
        for number in range(count)
    ]
