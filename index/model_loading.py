"""[GPU] Loads a sentence-transformers model onto a device, quietly, and reads off how it wants to be used.

Whatever the libraries raise for a wrong name becomes one sentence. A model never runs code of its own (no `trust_remote_code`).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import DeviceFull, ModelUnusable
from .hub import model_folder
from .model_settings import model_settings
from .models import Prefixes, known_prefixes, model_fingerprint, recorded_name

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_ENDLESS = 1_000_000
"""Tokens of a text where nobody says how many are read."""

_DOT_PRODUCT = "-dot-"
"""Part of the names of sentence-transformers' models made for inner products of rows that are not normalised."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device. `dim`: what is kept of each vector, the first values where its configuration truncates; `normalize`:
    whether rows are brought to length 1, `normalizes_itself`: whether its last values have it already; `prefixes`: its own, else
    the known ones; `settings`: see `model_settings`."""

    name: str
    folder: str
    fingerprint: str
    settings: Mapping[str, str]
    model: Any
    dtype: str
    dim: int
    max_length: int
    normalize: bool
    normalizes_itself: bool
    prefixes: Prefixes


def choose_dtype(dtype: str, device: torch.device) -> str:
    """`auto` is float16 on CUDA and float32 elsewhere."""
    if dtype == "auto":
        return "float16" if device.type == "cuda" else "float32"
    return dtype


def load_model(name: str, device: torch.device, dtype: str, normalize: bool | None = None) -> LoadedModel:
    """The model `name` on `device`; `normalize` None = as the model's own configuration says. Raises `ModelUnusable`, and
    `DeviceFull` where it finds no room now."""
    folder, recorded = model_folder(name), recorded_name(name)
    try:
        model = _load(name, folder, device)
        model.eval().to(dtype=DTYPES[dtype])
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceFull(f"the model {name} finds no room on {device} now: {first_line(error)}") from None
    itself = any(type(module).__name__ == "Normalize" for module in model)
    max_length = _max_length(model)
    dim = model.get_embedding_dimension() if hasattr(model, "get_embedding_dimension") else None
    dim = dim or model.get_sentence_embedding_dimension()
    if not dim:
        raise ModelUnusable(f"the model {name} does not say how many values its vectors have")
    return LoadedModel(
        name=recorded,
        folder=folder,
        fingerprint=model_fingerprint(folder),
        settings=model_settings(folder),
        model=model,
        dtype=dtype,
        dim=int(dim),
        max_length=max_length,
        normalize=itself or (_wants_normalized(name, recorded, model) if normalize is None else normalize),
        normalizes_itself=itself and not getattr(model, "truncate_dim", None),
        prefixes=_prefixes(name, folder, model),
    )


def _load(name: str, folder: str, device: torch.device) -> Any:
    with _quiet():
        try:
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(folder, device=str(device), local_files_only=True)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a library makes of files that are no model
            raise ModelUnusable(f"the model {name} cannot be loaded: {first_line(error)}") from None
    card: Any = getattr(model, "model_card_data", None)
    if getattr(card, "model", None) is model:
        card.model = None  # else only a full collection would ever free the layers that a backend has no use for
    return model


def _max_length(model: Any) -> int:
    """Tokens of a text that are read: as many as the library says, where a table of positions has rows for so many."""
    inner = getattr(model[0], "auto_model", None)
    length = model.max_seq_length
    if not length or length > _ENDLESS:  # the tokenizer does not know; a model with learned positions does
        positions = getattr(getattr(inner, "config", None), "max_position_embeddings", None)
        length = positions if isinstance(positions, int) and positions > 0 else _ENDLESS
    table = getattr(getattr(inner, "embeddings", None), "position_embeddings", None)
    if isinstance(table, torch.nn.Embedding):  # those of RoBERTa and its like count from behind the row of padding
        length = min(length, table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
    return int(length)


def _wants_normalized(name: str, recorded: str, model: Any) -> bool:
    similarity = "dot" if _DOT_PRODUCT in f"{name} {Path(recorded).name}".lower() else str(model.similarity_fn_name or "cosine")
    if similarity not in ("cosine", "dot"):
        raise ModelUnusable(f"the model {name} compares by {similarity} distance, which an index of inner products cannot")
    return similarity == "cosine"


def _prefixes(name: str, folder: str, model: Any) -> Prefixes:
    prompts: dict[str, str] = {key: text for key, text in (model.prompts or {}).items() if text}
    default = prompts.get(model.default_prompt_name or "", "")
    known = known_prefixes(name, folder)
    if not prompts:
        return known
    passage = next((prompts[key] for key in ("document", "passage", "corpus") if key in prompts), default)
    return Prefixes(prompts.get("query", default), passage)


def first_line(error: Exception) -> str:
    """What a library's error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the libraries' progress bars, advice and warnings while a model loads."""
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "huggingface_hub", "httpx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
