"""Models of the Hugging Face hub: from its cache on this machine, else downloaded once. Never loads torch."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ModelUnusable
from .models import model_fingerprint, package_of, resolve_model

_PROBE_S = 10.0
"""Seconds the hub has to answer the first question. Without it the library would go on trying for more than a minute."""

_NOT_NEEDED = ["onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite", "coreml/*"]


def model_folder(name: str) -> str:
    """The folder of the model `name`, from the hub where it is neither a folder nor a package. Raises `ModelUnusable`."""
    folder = resolve_model(name)
    return folder if os.path.isdir(folder) else hub_folder(folder)


def hub_folder(name: str) -> str:
    """The folder that holds the files of the hub's model `name`. Raises `ModelUnusable` where it cannot be had."""
    repositories = (name,) if "/" in name else (f"sentence-transformers/{name}", name)
    for repository in repositories:
        folder = _cached(repository)
        if folder is not None:
            return folder
    reason = ""
    for repository in repositories:
        try:
            return _download(repository)
        except _NotThere as error:
            reason = str(error)
    hint = f"; {package_of(name)}" if package_of(name) else ""
    raise ModelUnusable(f"there is no model {name}: it is no folder, it is not in the Hugging Face cache, and {reason}{hint}")


class _NotThere(Exception):
    """Why a repository cannot be downloaded."""


def _cached(repository: str) -> str | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = str(snapshot_download(repository, local_files_only=True))
        model_fingerprint(folder)
    except (LocalEntryNotFoundError, HFValidationError, ModelUnusable, OSError):
        return None
    return folder if (Path(folder) / "config.json").is_file() or (Path(folder) / "modules.json").is_file() else None


def _download(repository: str) -> str:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        files = [found.rfilename for found in HfApi().model_info(repository, timeout=_PROBE_S).siblings or []]
        both = any(file.endswith(".safetensors") for file in files)
        return str(snapshot_download(repository, ignore_patterns=[*_NOT_NEEDED, *(["*.bin"] if both else [])]))
    except OfflineModeIsEnabled:
        raise _NotThere("HF_HUB_OFFLINE forbids to ask the hub") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise _NotThere("the Hugging Face hub has none of that name") from None
    except Exception as error:  # no network in one of the many ways that HTTP libraries tell it
        raise _NotThere(f"the Hugging Face hub cannot be reached ({type(error).__name__})") from None
