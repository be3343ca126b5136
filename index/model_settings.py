"""What decides the vectors of a model beside its weights: how texts become tokens, and what is done with the tokens' vectors.

These are the files that the libraries read; prompts and normalisation are recorded apart. A model card, exports for other
runtimes and the history of a training decide nothing. Never loads torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from .models import hash_file

_DECIDES = re.compile(r"modules\.json|(.+_)?config\.json|tokenizer\.json|.*(special|added)_tokens.*\.json|chat_template\..+")
_DECIDES_NOTHING = ("data_config.json", "generation_config.json", "training_config.json")
_VOCABULARY = re.compile(r"vocab\.\w+|merges\.txt|.+\.model")
"""Of tokenizers that have no tokenizer.json: where one stands beside them it holds all that they do."""

_OTHER_RUNTIMES = ("onnx", "openvino", "coreml")
_ORIGINS = ("_name_or_path", "name_or_path", "transformers_version", "special_tokens_map_file", "tokenizer_file")
"""What a configuration says of where it came from: a copy of the model may say otherwise."""


def model_settings(folder: str | os.PathLike[str]) -> dict[str, str]:
    """16 hexadecimal digits for each file in a model folder that decides its vectors and holds no weights, by its name there."""
    root = Path(folder)
    found = {}
    for path in sorted(root.rglob("*")):
        within = path.relative_to(root)
        skipped = any(part.startswith(".") or part in _OTHER_RUNTIMES for part in within.parts)
        if not skipped and _decides(path) and path.is_file():
            name = os.fsencode(within.as_posix()).decode("utf-8", "backslashreplace")
            found[name] = _digest(path)[:16]
    return found


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names of the files that are not the same in two of these."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _decides(path: Path) -> bool:
    if _VOCABULARY.fullmatch(path.name):
        return not path.with_name("tokenizer.json").exists()
    return bool(_DECIDES.fullmatch(path.name)) and path.name not in _DECIDES_NOTHING


def _digest(path: Path) -> str:
    """Of what a JSON file says, however it is laid out; of a tokenizer, which is large, and of any other file as it is."""
    if path.suffix == ".json" and path.name != "tokenizer.json":
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            said = {name: value for name, value in fields.items() if name not in _ORIGINS} if isinstance(fields, dict) else fields
            return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        except (ValueError, RecursionError):
            pass
    return hash_file(path)
