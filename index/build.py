"""Corpus to index directory. Streams: memory does not grow with the corpus, but for the sorted ids (16 bytes a passage).

First every row is read, checked and written as a passage, so that a bad row stops the build in its first minutes, not its last;
then the passages are encoded in their order, and last the new version is put in place. Until that moment the old index serves.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .build_passages import Progress, write_passages
from .corpus import Row, check_corpus, read_corpus
from .demo import SOURCE, demo_index_dir, demo_rows
from .errors import ConfigurationError, IndexUnusable
from .manifest import FLAT, FORMAT, INNER_PRODUCT, CorpusFacts, FileEntry, Manifest, ModelIdentity
from .models import DEFAULT_MODEL
from .passage import TEXT_ONLY, TITLE_AND_TEXT, encoded_text
from .passage_writer import PassageWriter
from .passages import IDS, OFFSETS, ROWS, PassageStore
from .rows import Fields
from .staging import publish, seal, staging
from .store import open_index
from .vectors import FULL, HALF, VectorWriter

if TYPE_CHECKING:
    from .encoder import Encoder

TYPES = ("auto", FLAT)
ENCODING = "encoding"

_ENCODE_ROWS = {"cpu": 256, "cuda": 8_192}
"""Passages sorted by length and encoded at a time."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build. Prefixes and `normalize` that are None are the model's own; `encode` is TITLE_AND_TEXT or TEXT_ONLY."""

    model: str = DEFAULT_MODEL
    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    type: str = "auto"
    encode: str = TITLE_AND_TEXT
    fields: Fields = field(default_factory=Fields)
    skip_bad: bool = False
    query_prefix: str | None = None
    passage_prefix: str | None = None
    normalize: bool | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """A new index in `path`; the first few sentences about rows that were skipped."""

    path: Path
    manifest: Manifest
    skipped: tuple[str, ...]


def build_index(
    corpus: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: BuildOptions = BuildOptions(),
    progress: Progress | None = None,
) -> Built:
    """Builds the index of the files and folders in `corpus`. Raises `CorpusError`, `ModelUnusable`, `DeviceUnavailable`, or
    `ConfigurationError`; whatever it raises, an index that is in `out` already stays as it is."""
    check_corpus(corpus)
    rows = read_corpus(corpus, options.fields)
    return _build(rows, tuple(Path(path).resolve().name for path in corpus), Path(out), options, progress or _silent)


def build_demo(out: str | os.PathLike[str], options: BuildOptions = BuildOptions(), progress: Progress | None = None) -> Built:
    """The index of the built-in demo corpus in `out`: built, unless it is there already. Waits for a build that is under way."""
    return _build(demo_rows(), (SOURCE,), Path(out), options, progress or _silent, demo=True)


def ensure_demo_index(progress: Progress | None = None, device: str = "auto") -> Path:
    """The folder of the demo index, built if it is not there yet; waits for a build that is already under way."""
    return build_demo(demo_index_dir(), BuildOptions(device=device), progress).path


def _build(
    rows: Iterable[Row], sources: tuple[str, ...], out: Path, options: BuildOptions, progress: Progress, demo: bool = False
) -> Built:
    if options.type not in TYPES:
        raise ConfigurationError(f"cannot build an index of type {options.type!r}: known are {', '.join(TYPES)}")
    if options.encode not in (TITLE_AND_TEXT, TEXT_ONLY):
        raise ConfigurationError(f"cannot encode {options.encode!r}: known are {TITLE_AND_TEXT}, {TEXT_ONLY}")
    with staging(out, wait=demo) as folder:
        present = _present_demo(out, options) if demo else None
        if present is not None:
            return Built(out, present, ())
        encoder = _encoder(options)
        passages = PassageWriter(folder)
        vectors = VectorWriter(folder, encoder.dim)
        writers = {**passages.writers(), **vectors.writers()}
        try:
            skipped = write_passages(rows, passages, options.encode, options.skip_bad, progress)
            _write_vectors(passages, vectors, encoder, options.encode, progress)
            version = _version({role: writer.data_digest() for role, writer in writers.items()}, encoder, options)
            widths = {ROWS: 0, OFFSETS: 1, IDS: 2, FULL: encoder.dim, HALF: encoder.dim}
            files = seal(writers, passages.count, widths, version)
            manifest = _manifest(version, encoder, vectors, files, _facts(sources, options, skipped.count))
            publish(folder, out, manifest)
        finally:
            for writer in writers.values():
                writer.close()
    return Built(out, manifest, tuple(map(str, skipped.first)))


def _encoder(options: BuildOptions) -> Encoder:
    from .encoder import load_encoder

    return load_encoder(
        options.model,
        options.device,
        options.dtype,
        backend=options.backend,
        query_prefix=options.query_prefix,
        passage_prefix=options.passage_prefix,
        normalize=options.normalize,
    )


def _write_vectors(passages: PassageWriter, vectors: VectorWriter, encoder: Encoder, encode: str, progress: Progress) -> None:
    for writer in passages.writers().values():
        writer.flush()
    store = PassageStore(*(np.memmap(passages.writers()[role].path, dtype=np.uint8, mode="r") for role in (ROWS, OFFSETS, IDS)))
    step = _ENCODE_ROWS["cpu" if encoder.device == "cpu" else "cuda"]
    progress(ENCODING, 0, store.count)
    for first in range(0, store.count, step):
        some = [store.get(row) for row in range(first, min(first + step, store.count))]
        texts = [encoded_text(passage["title"], passage["text"], encode) for passage in some]
        vectors.append(encoder.encode(texts, "passage").vectors)
        progress(ENCODING, vectors.count, store.count)


def _version(digests: dict[str, bytes], encoder: Encoder, options: BuildOptions) -> str:
    """Derived from everything that an answer depends on: the same content has the same version wherever it was built."""
    told = {role: digest.hex() for role, digest in digests.items()}
    how = [FORMAT, encoder.fingerprint, encoder.prefixes.query, encoder.prefixes.passage, encoder.max_length, options.encode]
    return hashlib.sha256(json.dumps([told, how], sort_keys=True).encode()).hexdigest()[:16]


def _manifest(
    version: str, encoder: Encoder, vectors: VectorWriter, files: dict[str, FileEntry], corpus: CorpusFacts
) -> Manifest:
    return Manifest(
        format=FORMAT,
        version=version,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        type=FLAT,
        factory="Flat",
        count=vectors.count,
        dim=encoder.dim,
        metric=INNER_PRODUCT,
        normalized=encoder.normalize,
        model=ModelIdentity(encoder.model, encoder.fingerprint),
        query_prefix=encoder.prefixes.query,
        passage_prefix=encoder.prefixes.passage,
        max_length=encoder.max_length,
        dtype=encoder.dtype,
        device=encoder.device,
        corpus=corpus,
        norms=vectors.norms(),
        tools=_tools() | {"backend": encoder.backend},
        files=files,
    )


def _facts(sources: tuple[str, ...], options: BuildOptions, skipped: int) -> CorpusFacts:
    fields = options.fields
    return CorpusFacts(sources, fields.id, fields.title, fields.text, options.encode, skipped)


def _tools() -> dict[str, str]:
    tools = {"python": platform.python_version()}
    for name in ("ragpool", "torch", "sentence-transformers", "transformers", "numpy"):
        try:
            tools[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            tools[name] = "unknown"
    return tools


def _present_demo(out: Path, options: BuildOptions) -> Manifest | None:
    """The manifest of the demo index in `out`, if there is one for this Python and this model."""
    try:
        manifest = open_index(out).manifest
    except IndexUnusable:
        return None
    same = manifest.corpus.sources == (SOURCE,) and manifest.tools.get("python") == platform.python_version()
    return manifest if same and manifest.model.name == options.model else None


def _silent(stage: str, done: int, total: int | None) -> None:
    pass
