"""What a build has done so far, on disk beside its files, so that the same command goes on after a kill at any moment.

| file in the staging folder | says                                                                            |
|----------------------------|---------------------------------------------------------------------------------|
| `state.json`               | what encodes, and how: model, prefixes, dtype, backend, threads, versions; and  |
|                            | what is made of the rows                                                        |
| `passages.json`            | the corpus is read: which files, how many passages, their digest                |
| `encoded`                  | a line for each encoded shard (number, digest, passages that were longer than   |
|                            | the model reads), under the key of what it was made from                        |
| `sealed.json`              | all files are complete: the manifest to come                                    |

Each is written when what it tells of is on disk, never before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from .errors import ConfigurationError
from .manifest import ModelIdentity
from .model_settings import changed

STATE = "state.json"
PASSAGES = "passages.json"
ENCODED = "encoded"
SEALED = "sealed.json"

FORMAT = 3
SEED = 20_091_107
"""Draws the sample that an index type is trained on."""

_LINE = re.compile(r"([0-9]+) ([0-9a-f]{32}) ([0-9]+)", re.ASCII)
_HOW = ("device", "dtype", "backend", "tools")


@dataclass(frozen=True, slots=True)
class EncodedBy:
    """All that the rows depend on beside the texts: the first fields say what they mean, the last four how they are computed."""

    model: str
    fingerprint: str
    settings: Mapping[str, str]
    dim: int
    max_length: int
    normalize: bool
    query_prefix: str
    passage_prefix: str
    encode: str
    device: str
    dtype: str
    backend: str
    tools: Mapping[str, str]

    def identity(self) -> ModelIdentity:
        return ModelIdentity(self.model, self.fingerprint, self.settings)

    def told_how(self) -> str:
        return f"on {self.device} in {self.dtype} by {self.backend} ({told_tools(self.tools)})"


@dataclass(frozen=True, slots=True)
class BuildState:
    """`threads` is what each encoding process computes with on a CPU: sums of another number of threads are not bit by bit the
    same. `shard_rows` are encoded at a time, and batches are formed among them only. What is made of the rows does not change
    them: `part_threads` make it, `planned` is what was decided (`vector_files.plan_for`) and which faiss is to
    make it, empty before the corpus is read."""

    by: EncodedBy
    threads: int
    shard_rows: int
    part_threads: int
    seed: int = SEED
    format: int = FORMAT
    planned: Mapping[str, Any] = field(default_factory=dict)

    def key(self, passages_sha256: str) -> str:
        """Identifies the rows that this state makes of these passages."""
        rows_of = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("part_threads", "planned")}
        del rows_of["by"]["model"]  # its fingerprint and settings say which it is, wherever it lies
        return digest([rows_of, passages_sha256])


@dataclass(frozen=True, slots=True)
class ReadPassages:
    """The corpus as it was read. `reading` identifies the files and how they were read; `sentences` tell the first bad rows."""

    reading: str
    count: int
    sha256: str
    skipped: int
    sentences: tuple[str, ...]


class EncodedShard(NamedTuple):
    """The digest of its rows, and how many of its passages are longer than the model reads."""

    digest: str
    truncated: int


def told_tools(tools: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tools.items())


def agree(earlier: BuildState | None, now: BuildState, out: Path) -> tuple[BuildState, str]:
    """The state to go on with, and what to tell about rows that an earlier build encoded and this one cannot use.

    Raises `ConfigurationError` where they mean the same and would be computed in another way: an index is of one kind.
    """
    if earlier is None:
        return now, ""
    before, after = dataclasses.asdict(earlier.by), dataclasses.asdict(now.by)
    others = [name for name in after if name not in (*_HOW, "model", "settings") and before[name] != after[name]]
    others += [f"{name} of the model" for name in changed(earlier.by.settings, now.by.settings)]
    if others:
        return now, f"what was encoded so far is thrown away: {' and '.join(others)} changed"
    if any(before[name] != after[name] for name in _HOW):
        raise ConfigurationError(
            f"the build that was begun in {out} encodes {earlier.by.told_how()}, this one would {now.by.told_how()}: "
            "go on as it was begun, or say --restart"
        )
    return dataclasses.replace(earlier, by=dataclasses.replace(earlier.by, model=now.by.model)), ""


def read_state(folder: Path) -> BuildState | None:
    """The state of the build that was begun in `folder`, if there is one that this version can go on with."""
    fields = read_json(folder / STATE)
    try:
        if fields["format"] != FORMAT:
            return None
        return BuildState(**{**fields, "by": EncodedBy(**fields["by"])})
    except (KeyError, TypeError):
        return None


def read_passages(folder: Path, reading: str) -> ReadPassages | None:
    """What is known of the passages that were read into `folder`, if they are complete and were read as `reading` says."""
    fields = read_json(folder / PASSAGES)
    if fields.get("reading") != reading:
        return None
    try:
        return ReadPassages(**{**fields, "sentences": tuple(fields["sentences"])})
    except (KeyError, TypeError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; an empty one where there is none: it was never written whole."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Puts the object in place, whole or not at all."""
    _replace(path, json.dumps(fields))


class EncodedShards:
    """The shards that are on disk, by number; `key` says what they were made from."""

    def __init__(self, folder: Path, key: str) -> None:
        self.found: dict[int, EncodedShard] = {}
        self.thrown_away = 0
        self._path = folder / ENCODED
        self._key = key
        first, *lines = self._lines()
        for line in filter(None, map(_LINE.fullmatch, lines)):
            self.found[int(line[1])] = EncodedShard(line[2], int(line[3]))
        if first != key:
            self.thrown_away = len(self.found)
            self.found = {}
        self._file = -1

    @property
    def truncated(self) -> int:
        return sum(shard.truncated for shard in self.found.values())

    def keep(self, shards: Iterable[int]) -> None:
        """Forgets all others; from here on `add` adds to these."""
        self.found = {shard: self.found[shard] for shard in shards}
        _replace(self._path, "".join(f"{line}\n" for line in (self._key, *map(_line, self.found.items()))))
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def add(self, shard: int, encoded: EncodedShard) -> None:
        """A shard whose rows are on disk."""
        self.found[shard] = encoded
        os.write(self._file, f"{_line((shard, encoded))}\n".encode())
        os.fdatasync(self._file)

    def __enter__(self) -> EncodedShards:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file >= 0:
            os.close(self._file)

    def _lines(self) -> list[str]:
        """The first line and all that were written whole."""
        text = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = self._path.read_text(encoding="ascii")
        return text.split("\n")[:-1] or [""]


def _line(item: tuple[int, EncodedShard]) -> str:
    number, encoded = item
    return f"{number} {encoded.digest} {encoded.truncated}"


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
