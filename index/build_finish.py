"""The last part of a build: from encoded rows to sealed files and their manifest. What it does is done again after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import numpy as np

from . import runtimes
from .build_passages import Progress
from .build_state import SEALED, BuildState, EncodedShards, ReadPassages, digest, read_json, write_json
from .errors import IndexUnusable
from .index_types import Plan
from .manifest import FLAT, FORMAT, INNER_PRODUCT, CorpusFacts, Manifest, parse_manifest
from .passages import IDS, OFFSETS, ROWS
from .sealed import Unsealed
from .shards import Work
from .staging import seal
from .vector_files import Wanted, make_vector_files
from .vectors import FULL, EncodedRows

FAISS = "faiss"
_DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu")
"""What brings it."""


class Finish:
    """What the files of a version are made from; `key` identifies it."""

    def __init__(self, folder: Path, state: BuildState, read: ReadPassages, wanted: Wanted, facts: CorpusFacts) -> None:
        made_by = by_faiss(wanted.type)
        self._encoded = state.key(read.sha256)
        self.key = digest([self._encoded, dataclasses.asdict(wanted), dataclasses.asdict(facts), made_by])
        self._folder = folder
        self._state = state
        self._read = read
        self._wanted = wanted
        self._facts = facts

    def seal(self, plan: Plan, now: datetime.datetime, progress: Progress) -> Manifest:
        """Makes the vector files and ends all files; the manifest they are to be published with."""
        by, count = self._state.by, self._read.count
        rows = EncodedRows(self._folder / FULL, count, by.dim)
        made = make_vector_files(rows, plan, self._wanted, self._folder, progress)
        widths = {ROWS: 0, OFFSETS: 1, IDS: 2, **made.widths}
        unsealed = {role: Unsealed(self._folder / role) for role in widths}
        version = self._version({role: file.data_digest().hex() for role, file in unsealed.items()})
        files = seal(unsealed, count, widths, version)
        manifest = Manifest(
            format=FORMAT,
            version=version,
            created=now.isoformat(timespec="seconds"),
            type=made.type,
            factory=made.factory,
            count=count,
            dim=by.dim,
            metric=INNER_PRODUCT,
            normalized=by.normalize,
            model=by.identity(),
            query_prefix=by.query_prefix,
            passage_prefix=by.passage_prefix,
            max_length=by.max_length,
            dtype=by.dtype,
            device=by.device,
            corpus=self._facts,
            norms=made.norms,
            tools={**tools(), "backend": by.backend},
            files=files,
            search=made.search,
            truncated=EncodedShards(self._folder, self._encoded).truncated,
        )
        write_json(self._folder / SEALED, {"key": self.key, "manifest": json.loads(manifest.to_json())})
        return manifest

    def _version(self, digests: dict[str, str]) -> str:
        """Derived from everything that an answer depends on: the same content has the same version wherever it was built."""
        by = self._state.by
        how = [FORMAT, by.fingerprint, by.settings, by.query_prefix, by.passage_prefix, by.max_length, by.encode]
        return digest([digests, how])[:16]


def read_sealed(folder: Path, key: str) -> Manifest | None:
    """The manifest of the files that are sealed in `folder`, or were moved from there, if they were made from just this."""
    fields = read_json(folder / SEALED)
    if fields.get("key") != key:
        return None
    try:
        return parse_manifest(json.dumps(fields.get("manifest")), str(folder))
    except IndexUnusable:
        return None


def has_passages(folder: Path) -> bool:
    """Whether the passages are still in `folder`: another build, killed while it was published, may have moved them."""
    return all((folder / role).exists() for role in (ROWS, OFFSETS, IDS))


def cut_trailers(work: Work) -> None:
    """Takes from the passages in the folder what a build that was killed while it sealed them has put behind."""
    folder = Path(work.folder)
    with open(folder / OFFSETS, "rb") as file:
        file.seek(8 * work.count)
        rows_bytes = int(np.frombuffer(file.read(8), dtype="<u8")[0])
    for role, size in ((ROWS, rows_bytes), (OFFSETS, 8 * (work.count + 1)), (IDS, 16 * work.count)):
        os.truncate(folder / role, size)


def tools() -> dict[str, str]:
    """Versions of what takes part in a build, as far as installed."""
    return {**encoding_tools(), **_installed(_DISTRIBUTIONS)}


def by_faiss(type_: str) -> dict[str, str]:
    """The version of faiss, where an index of this type depends on it."""
    return {} if type_ == FLAT else _installed(_DISTRIBUTIONS)


def encoding_tools() -> dict[str, str]:
    """Versions of what the encoded rows depend on: faiss has no part in them."""
    return {"python": platform.python_version(), "ragpool": "unknown", **_installed(("ragpool", "numpy")), **runtimes.versions()}


def _installed(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
