"""[GPU] A sentence-transformers model as one ONNX file, pooling and normalisation included: made once, kept in the cache folder.

The file's name says everything that it depends on: weights, configuration, versions, dtype. It is written elsewhere and moved
there with its checksum, under a lock: readers see a whole file or none. One whose checksum does not hold is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .demo import cache_folder
from .errors import ModelUnusable
from .model_loading import LoadedModel, first_line
from .models import hash_file
from .runtimes import FLOAT32, versions

FORMAT = 1
"""To be raised with a change of what is exported."""

LARGEST_BYTES = 1_900_000_000
"""One ONNX file holds less than 2 GiB of weights."""

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_CONFIGURATION_MAX_BYTES = 1 << 20

log = logging.getLogger(__name__)


class Exported(torch.nn.Module):
    """The whole model as a function of its token tensors: int64 (n, longest) each, to float32 (n, dim)."""

    def __init__(self, model: Any, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        embedding: torch.Tensor = self.model(dict(zip(self.inputs, tensors, strict=True)))["sentence_embedding"]
        return embedding


def exported(loaded: LoadedModel, tokenizer: Any, dtype: str = FLOAT32, cache_dir: Path | None = None) -> Path:
    """The ONNX file of the float32 model `loaded` on the CPU, exported now if it is not there; int8 is made from the float32 one.

    Raises `ModelUnusable` with the reason where the model cannot be exported, or the file cannot be written.
    """
    folder = (cache_dir or cache_folder()) / "models"
    path = folder / f"{loaded.fingerprint[:16]}-{_key(loaded)}-{dtype}.onnx"
    try:
        with _locked(folder, path.name):
            if not _whole(path):
                _make(loaded, tokenizer, dtype, path, cache_dir)
    except OSError as error:
        raise ModelUnusable(f"the exported model cannot be kept in {folder}: {error.strerror or error}") from None
    return path


def input_names(tokenizer: Any) -> tuple[str, ...]:
    return tuple(name for name in _INPUTS if name != "token_type_ids" or name in tokenizer.model_input_names)


def _make(loaded: LoadedModel, tokenizer: Any, dtype: str, path: Path, cache_dir: Path | None) -> None:
    log.info("exporting the model %s as %s, once", loaded.name, path.name)
    with tempfile.TemporaryDirectory(prefix=".export.", dir=path.parent) as scratch:
        draft = Path(scratch) / "model.onnx"
        if dtype == FLOAT32:
            _export(loaded, tokenizer, draft)
        else:
            _quantize(loaded.name, exported(loaded, tokenizer, FLOAT32, cache_dir), draft)
        told = {"size": draft.stat().st_size, "sha256": hash_file(draft)}
        beside = Path(scratch) / "checksum"
        beside.write_text(json.dumps(told), encoding="utf-8")
        _checksum(path).unlink(missing_ok=True)
        os.replace(draft, path)
        os.replace(beside, _checksum(path))


def _export(loaded: LoadedModel, tokenizer: Any, path: Path) -> None:
    size = sum(parameter.numel() * parameter.element_size() for parameter in loaded.model.parameters())
    if size > LARGEST_BYTES:
        raise ModelUnusable(
            f"the model {loaded.name} cannot be exported: {size} bytes of weights are more than one ONNX file holds"
        )
    names = input_names(tokenizer)
    tensors = tuple(torch.ones((2, 7), dtype=torch.int64) for _ in names)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                Exported(loaded.model, names),
                tensors,
                input_names=list(names),
                output_names=["sentence_embedding"],
                dynamic_shapes={"tensors": tuple(dict(axes) for _ in names)},
                dynamo=True,
                verbose=False,
            )
            if program is None:
                raise RuntimeError("the exporter made nothing")
            program.save(str(path), external_data=False)
    except Exception as error:  # whatever an exporter makes of a graph that it does not know
        raise ModelUnusable(f"the model {loaded.name} cannot be exported: {type(error).__name__}: {first_line(error)}") from None


def _quantize(name: str, source: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    try:
        with _quiet():
            quantize_dynamic(str(source), str(path), per_channel=True, weight_type=QuantType.QInt8)
    except Exception as error:  # whatever it makes of a graph that it does not know
        raise ModelUnusable(f"the model {name} cannot be made int8: {type(error).__name__}: {first_line(error)}") from None


def _key(loaded: LoadedModel) -> str:
    """16 hexadecimal digits for everything but the weights that the graph depends on."""
    settings = {}
    for file in sorted(Path(loaded.folder).rglob("*.json")):
        if file.stat().st_size < _CONFIGURATION_MAX_BYTES and "token" not in file.name:
            settings[file.relative_to(loaded.folder).as_posix()] = hash_file(file)
    told = json.dumps([FORMAT, versions(), settings], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256.json")


def _whole(path: Path) -> bool:
    """Whether the file is there as it was written."""
    try:
        told = json.loads(_checksum(path).read_text(encoding="utf-8"))
        if path.stat().st_size == told["size"] and hash_file(path) == told["sha256"]:
            return True
        log.warning("the exported model %s is damaged: it is made again", path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        log.warning("the checksum of the exported model %s cannot be read: it is made again", path)
    return False


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """One process at a time makes the file `name`."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{name}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what exporters print and warn about."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
