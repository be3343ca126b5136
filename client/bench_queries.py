"""The questions of a load generator: from a file or built in, each once, in an order that its seed decides. Reads, never asks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from ..conf.errors import ConfigurationError
from .bench_questions import questions

BUILT_IN = "built in"


@dataclass(frozen=True, slots=True)
class Queries:
    """`texts` are distinct; `repeats`: lines of the file that said what another says and are left out."""

    source: str
    texts: list[str]
    repeats: int

    def share(self, of: int, among: int) -> list[str]:
        """The part of one of several generators, so that no two ask the same question."""
        return self.texts[of::among]

    def words(self) -> dict[str, float]:
        lengths = [len(text.split()) for text in self.texts]
        return {"min": min(lengths), "median": median(lengths), "max": max(lengths)}


def load_queries(path: str | None, seed: int) -> Queries:
    """From the file at `path`, or the built-in ones. Raises `ConfigurationError` with file, line and reason."""
    found = questions() if path is None else _read(path)
    texts = list(dict.fromkeys(found))
    Random(seed).shuffle(texts)
    return Queries(path or BUILT_IN, texts, len(found) - len(texts))


def _read(path: str) -> list[str]:
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigurationError(f"--queries: {error.strerror or error}: {path}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--queries: {path} is not UTF-8 (at byte {error.start})") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ConfigurationError(f"--queries: {path} holds no query")
    if not _is_jsonl(path, numbered[0][1]):
        return [line for _, line in numbered]
    return [_text(path, number, line) for number, line in numbered]


def _is_jsonl(path: str, first: str) -> bool:
    return Path(path).suffix in (".jsonl", ".ndjson") or isinstance(_parsed(first), dict)


def _text(path: str, number: int, line: str) -> str:
    row = _parsed(line)
    if not isinstance(row, dict):
        raise ConfigurationError(f'--queries: {path}, line {number}: not a JSON object like {{"text": "..."}}')
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError(f'--queries: {path}, line {number}: no "text" with a query in it')
    return text.strip()


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
