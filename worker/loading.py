"""Loads what a worker needs onto its device, on the device thread, and asks itself a first question before anybody else may.

Everything heavy is imported here and not before: the worker has said `loading` by then.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..conf import devices
from ..conf.settings import ConfigurationError, Settings
from ..index.calibration import Choice
from ..wire.messages import Register
from ..wire.progress import ProgressWriter
from .batcher import Budget
from .owner import Loaded
from .pipeline import Pipeline

if TYPE_CHECKING:
    from ..index.encoder import Encoder
    from ..index.store import Index

BATCH_ON_CPU = 16
BATCH_ON_CUDA = 256
"""Items of a batch where `worker.max_batch` is 0 and nothing was calibrated. Larger ones gain a CPU some percent at most."""

TOKENS_ON_CPU = 2_048
"""A larger batch gains a CPU nothing, and would hold the short texts in it for as long as the long ones take."""

log = logging.getLogger(__name__)


def loader(settings: Settings, device: str, info: Register, version: str, progress: ProgressWriter) -> Callable[[], Loaded]:
    """What the device thread runs first. It raises `ConfigurationError` for what only the operator can mend."""
    return lambda: load(settings, device, info, version, progress)


def load(settings: Settings, device: str, info: Register, version: str, progress: ProgressWriter) -> Loaded:
    """Index, model and engine on `device`, and proof that they answer and belong together. `version`: the one wanted, if it is
    still there.

    While files are hashed for the first time on this host, which takes as long as they are large, `progress` is stamped again
    and again: the supervisor does not count that time as loading.
    """
    began = time.monotonic()
    from ..index.store import open_index, open_version
    from ..index.verify import verify_once

    check_honoured(settings)
    index = open_version(settings.index.path, version) if version else open_index(settings.index.path)
    verify_once(index, goes_on=lambda: progress.start(time.monotonic_ns(), ()))
    progress.clear()
    if version and index.version != version:
        log.warning("version %s of the index %s is gone; this worker serves %s", version, settings.index.path, index.version)

    from ..index.encoder import load_index_encoder  # behind the checks: a broken index is found before seconds of imports
    from ..index.engine import EXACT, load_engine

    manifest = index.manifest
    wanted = settings.worker
    encoder = load_index_encoder(manifest, device, wanted.dtype, wanted.model, wanted.max_batch_tokens, wanted.backend)
    engine = load_engine(
        index,
        device if settings.index.gpu else devices.CPU,
        settings.index.engine,
        settings.index.gpus_per_worker,
        effort=settings.index.effort,
        sharing=devices.sharing(settings, device),
        fastest=encoder.choice.engine if encoder.choice else EXACT,
    )
    on_cuda = device.startswith("cuda")
    items = settings.worker.max_batch or best_batch(encoder.choice, encoder.backend, device)
    pipeline = Pipeline(encoder, engine, index.passages, manifest.version)
    pipeline.warm_up()
    check_fits(index, encoder, settings)
    log.info(
        "ready on %s after %.1f s: %s by %s in %s, batches of up to %d, %s engine, %d passages",
        device,
        time.monotonic() - began,
        encoder.model,
        encoder.backend,
        encoder.dtype,
        items,
        engine.name,
        index.count,
    )
    known = dataclasses.replace(
        info,
        model=encoder.model,
        backend=encoder.backend,
        dtype=encoder.dtype,
        engine=engine.name,
        index=settings.index.path,
        index_version=manifest.version,
        max_batch=items,
    )
    tokens = settings.worker.max_batch_tokens if on_cuda else min(settings.worker.max_batch_tokens, TOKENS_ON_CPU)
    return Loaded(known, pipeline, Budget(items, tokens, encoder.max_length), (settings.worker.streams or 1) if on_cuda else 0)


def best_batch(choice: Choice | None, backend: str, device: str) -> int:
    """What calibration found for this backend here, else the default of the device."""
    if choice is not None and choice.backend == backend:
        return choice.max_batch
    return BATCH_ON_CUDA if device.startswith("cuda") else BATCH_ON_CPU


def check_fits(index: Index, encoder: Encoder, settings: Settings) -> None:
    """Raises `ConfigurationError` where the rows of the index are not what the encoder gives; what is merely odd is logged."""
    from ..index.engine import idle_effort
    from ..index.own_rows import check_own_rows, differing_files

    check_own_rows(index, encoder)
    for warning in idle_effort(settings.index.effort, index.manifest, settings.index.path):
        log.warning(warning)
    if differing := differing_files(index, encoder):
        log.warning("the model gives the vectors of the index, though other files than then are here: %s", ", ".join(differing))


def check_honoured(settings: Settings) -> None:
    """What is asked for and not built is refused, never passed over. Raises `ConfigurationError`."""
    if not settings.index.path:
        raise ConfigurationError("no index: set index.path, or say --index DIR")
