"""The manifest of an index: what was built, from what, by what, and the exact files it consists of.

Replacing `manifest.json` is the commit point of a build. Reading it checks every field and that each file is there in full size.
It must never load torch, faiss or transformers: `rag-broker` and `rag-index info` read manifests too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .errors import IndexDamaged, IndexUnusable

FORMAT = 1
MANIFEST_NAME = "manifest.json"
CHECKSUM = "checksum"
"""The field that tells the SHA-256 of all others."""

MANIFEST_MAX_BYTES = 4 * 1024 * 1024
FLAT = "flat"
INNER_PRODUCT = "inner_product"

FILE_NAME = re.compile(r"(?:vectors|passages)-([0-9a-f]{16})\.[a-z0-9]{1,16}")
"""Names of an index's files. Nothing else in the folder is ever opened or removed, but for manifests."""
KEPT_NAME = re.compile(r"manifest-([0-9a-f]{16})\.json")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9a-f]{16}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One immutable file; `size` in bytes, `sha256` over all of it."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The encoder: the name it was asked for by (a folder's real path), the hash of its weights (see `models.model_fingerprint`)
    and what else decides its vectors (see `model_settings`; empty where a version wrote the index that did not look)."""

    name: str
    sha256: str
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """Where the passages came from: file names, field names ("" = found by itself), what was encoded, bad rows skipped."""

    sources: tuple[str, ...]
    id_field: str
    title_field: str
    text_field: str
    encode: str
    skipped: int


@dataclass(frozen=True, slots=True)
class HalfNorms:
    """Of the rows x and their half-precision copies x̂: upper bounds of ‖x̂‖, of ‖x - x̂‖ and of ‖x‖. See `exact`."""

    dtype: str
    half_max: float
    error_max: float
    full_max: float


@dataclass(frozen=True, slots=True)
class SearchFacts:
    """How a faiss part was trained and is searched, and what its build measured with held-out rows.

    `sample_rows` drawn with `seed` trained it. A search visits `effort` lists of an inverted file, or keeps `effort` candidates
    of a graph (0: faiss' own choice), and scores the best `candidates` again from float16 rows (0: none are kept). A flat index
    has none of these; its recall is 1. `queries_per_s` in batches of 32 on `threads` threads of the machine that built it.
    """

    part_bytes: int = 0
    sample_rows: int = 0
    seed: int = 0
    effort: int = 0
    candidates: int = 0
    recall_at_10: float = 1.0
    queries_per_s: float = 0.0
    threads: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """An index as one build left it. `version` is derived from the content: the same content has the same version. `truncated`
    passages are longer than the model reads: their ends were not encoded."""

    format: int
    version: str
    created: str
    type: str
    factory: str
    count: int
    dim: int
    metric: str
    normalized: bool
    model: ModelIdentity
    query_prefix: str
    passage_prefix: str
    max_length: int
    dtype: str
    device: str
    corpus: CorpusFacts
    norms: HalfNorms
    tools: Mapping[str, str]
    files: Mapping[str, FileEntry]
    search: SearchFacts = SearchFacts()
    truncated: int = 0

    def to_json(self) -> str:
        fields = dataclasses.asdict(self)
        return json.dumps({**fields, CHECKSUM: _checksum(fields)}, ensure_ascii=False, indent=2) + "\n"


def kept_name(version: str) -> str:
    """Where the manifest of a version stays after another has replaced it, for as long as somebody has its files open."""
    return f"manifest-{version}.json"


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """The manifest of `directory`, checked. Raises `IndexUnusable`; that is `IndexDamaged` where it or a file is not whole."""
    return check_files(directory, read_text(directory))


def check_files(directory: str | os.PathLike[str], text: str) -> Manifest:
    """The manifest in `text`, of which every file is there in full size. Raises as `read_manifest`."""
    folder = Path(directory)
    manifest = parse_manifest(text, str(folder))
    for entry in manifest.files.values():
        try:
            size = (folder / entry.name).stat().st_size
        except OSError as error:
            raise IndexDamaged(f"the index {folder} is damaged: {entry.name} cannot be read ({error.strerror})") from None
        if size != entry.size:
            raise IndexDamaged(f"the index {folder} is damaged: {entry.name} has {size} bytes, its manifest says {entry.size}")
    return manifest


def check_fields(directory: str | os.PathLike[str], text: str) -> None:
    """Whether every field of the manifest in `text` is as it was written. Raises `IndexDamaged`."""
    fields = json.loads(text)
    written = fields.pop(CHECKSUM, None)
    if written is None and "search" not in fields:  # by a version that wrote neither
        return
    if written != _checksum(fields):
        raise IndexDamaged(f"the index {directory} is damaged: its manifest does not have the checksum it says itself")


def _checksum(fields: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def parse_manifest(text: str, where: str) -> Manifest:
    """The manifest in `text`; `where` names it in what is raised: `IndexUnusable` for one of another format, `IndexDamaged` for
    anything that no build has written."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IndexDamaged(f"the manifest of the index {where} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise IndexDamaged(f"the manifest of the index {where} is not a JSON object")
    if type(fields.get("format")) is not int:
        raise IndexDamaged(f"the manifest of the index {where} is damaged: format is not of type int")
    if fields["format"] != FORMAT:
        raise IndexUnusable(
            f"the index {where} has format {fields['format']} and this version reads format {FORMAT}: build it again"
        )
    try:
        manifest: Manifest = _read_value(Manifest, fields, "manifest")
        _check(manifest)
    except (ValueError, OverflowError) as error:
        raise IndexDamaged(f"the manifest of the index {where} is damaged: {error}") from None
    return manifest


def write_manifest(directory: str | os.PathLike[str], manifest: Manifest) -> None:
    """Puts the manifest in place, whole or not at all: when this returns, it and everything before it is on disk."""
    folder = Path(directory)
    draft = folder / f".{MANIFEST_NAME}.{os.getpid()}"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(manifest.to_json())
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / MANIFEST_NAME)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(directory: str | os.PathLike[str], name: str = MANIFEST_NAME) -> str:
    """The text of a manifest in `directory`. Raises `IndexUnusable` where there is none, `IndexDamaged` where it is no text."""
    folder = Path(directory)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise IndexUnusable(f"the index {folder} {problem}")
    path = folder / name
    try:
        with open(path, "rb") as file:
            data = file.read(MANIFEST_MAX_BYTES + 1)
    except FileNotFoundError:
        raise IndexUnusable(f"{folder} is not an index: it has no {name}") from None
    except OSError as error:
        raise IndexUnusable(f"the manifest {path} cannot be read: {error.strerror}") from None
    if len(data) > MANIFEST_MAX_BYTES:
        raise IndexDamaged(f"the manifest {path} is larger than {MANIFEST_MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise IndexDamaged(f"the manifest {path} is not UTF-8") from None


def _check(manifest: Manifest) -> None:
    if not _VERSION.fullmatch(manifest.version):
        raise ValueError("version is not 16 hexadecimal digits")
    if manifest.count < 1 or manifest.dim < 1 or manifest.max_length < 1:
        raise ValueError("count, dim and max_length are at least 1")
    if manifest.metric != INNER_PRODUCT:
        raise ValueError(f"metric {manifest.metric!r} is not known")
    if not manifest.files:
        raise ValueError("files is empty")
    for role, entry in manifest.files.items():
        name = FILE_NAME.fullmatch(entry.name)
        if name is None or name[1] != manifest.version:
            raise ValueError(f"files.{role}.name {entry.name!r} is not a file of version {manifest.version}")
        if not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"files.{role}.sha256 is not a SHA-256")


def _read_value(kind: Any, value: object, where: str) -> Any:
    """`value` as `kind`, an annotation of the records above; raises ValueError naming the place. Unknown fields are ignored."""
    if dataclasses.is_dataclass(kind):
        return _read_record(typing.cast("type[Any]", kind), value, where)
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        return tuple(_read_value(typing.get_args(kind)[0], item, where) for item in value)
    if origin is not None:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not a map")
        inner = typing.get_args(kind)[1]
        return {name: _read_value(inner, item, f"{where}.{name}") for name, item in value.items()}
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{where} is not of type {kind.__name__}")
    if kind in (int, float) and not (math.isfinite(typing.cast(float, value)) and typing.cast(float, value) >= 0):
        raise ValueError(f"{where} is not a finite number from 0")
    return value


def _read_record(kind: type[T], value: object, where: str) -> T:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not a map")
    hints = typing.get_type_hints(kind)
    known = dataclasses.fields(typing.cast(typing.Any, kind))
    optional = {item.name for item in known if item.default is not MISSING or item.default_factory is not MISSING}
    fields = {}
    for name, hint in hints.items():
        if name not in value and name in optional:  # written by a version that had no such field
            continue
        if name not in value:
            raise ValueError(f"{where} has no {name}")
        fields[name] = _read_value(hint, value[name], f"{where}.{name}" if where != "manifest" else name)
    return kind(**fields)
