"""Opens an index directory: manifest, passages, vectors of one version, mapped and locked against removal. Never loads torch."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .errors import IndexDamaged, IndexUnusable
from .manifest import FLAT, MANIFEST_NAME, Manifest, check_files, kept_name, parse_manifest, read_text
from .passages import IDS, OFFSETS, ROWS, PassageStore
from .sealed import Trailer, map_sealed, sealed_size
from .vectors import FULL, HALF, PART, REFINE, VectorRows

_ATTEMPTS = 5
"""A new version may replace the old one between reading the manifest and mapping its files."""


class PartRows:
    """Mapped: `part`, the bytes of a faiss file, and `refine` float16 (count, dim), where it is kept. Cannot be written to."""

    __slots__ = ("count", "dim", "part", "refine")

    def __init__(self, part: NDArray[np.uint8], refine: NDArray[np.uint8] | None, count: int, dim: int) -> None:
        self.part = part
        self.refine: NDArray[np.float16] | None = refine.view("<f2").reshape(count, dim) if refine is not None else None
        self.count = count
        self.dim = dim


class Index:
    """One version of an index: `passages` by row, `vectors` for engines; `text` is the manifest as it was read. Holds its files
    until closed and not referred to."""

    __slots__ = ("_part", "_passages", "_vectors", "manifest", "path", "text")

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        text: str,
        passages: PassageStore,
        vectors: VectorRows | None,
        part: PartRows | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.text = text
        self._passages: PassageStore | None = passages
        self._vectors = vectors
        self._part = part

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def count(self) -> int:
        return self.manifest.count

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @property
    def passages(self) -> PassageStore:
        if self._passages is None:
            raise ValueError("this index is closed")
        return self._passages

    @property
    def vectors(self) -> VectorRows:
        """The rows of a flat index."""
        if self._vectors is None:
            raise ValueError("this index is closed, or not flat")
        return self._vectors

    @property
    def part(self) -> PartRows:
        """What an index of any other type has in their place."""
        if self._part is None:
            raise ValueError("this index is closed, or flat")
        return self._part

    def close(self) -> None:
        """Lets go of the files. Engines and rows taken from here keep theirs mapped until they go too."""
        self._passages = self._vectors = self._part = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_index(directory: str | os.PathLike[str]) -> Index:
    """The index in `directory`, sizes and trailers checked (checksums: `verify`). Raises `IndexUnusable`, `IndexDamaged`."""
    folder = Path(directory)
    for _ in range(_ATTEMPTS):
        stamp = _stamp(folder)
        try:
            return map_version(folder, read_text(folder))
        except IndexUnusable:
            if _stamp(folder) == stamp:  # nobody replaced it meanwhile: it is the index that is wrong
                raise
        except OSError as error:
            if _stamp(folder) == stamp:
                raise IndexUnusable(f"the index {folder} cannot be mapped: {error.strerror or error}") from None
    raise IndexUnusable(f"the index {folder} keeps being replaced while it is opened")


def open_version(directory: str | os.PathLike[str], version: str) -> Index:
    """That version of the index, also once another has replaced it, while its files are there; else the one that replaced it.
    Raises as `open_index` does."""
    folder = Path(directory)
    return (
        _map_wanted(folder, MANIFEST_NAME, version)
        or _map_wanted(folder, kept_name(version), version)  # perhaps since we looked
        or open_index(folder)
    )


def _map_wanted(folder: Path, name: str, version: str) -> Index | None:
    try:
        text = read_text(folder, name)
        return map_version(folder, text) if parse_manifest(text, str(folder)).version == version else None
    except (IndexUnusable, OSError):
        return None


def _stamp(folder: Path) -> tuple[int, int] | None:
    try:
        found = (folder / MANIFEST_NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def map_version(folder: Path, text: str) -> Index:
    """The version that the manifest in `text` tells of, sizes and trailers checked. Raises as `open_index`, and OSError."""
    manifest = check_files(folder, text)
    wanted = {ROWS, OFFSETS, IDS} | ({FULL, HALF} if manifest.type == FLAT else {PART})
    missing = wanted - manifest.files.keys()
    if missing:
        raise IndexDamaged(f"the manifest of the index {folder} names no file for {', '.join(sorted(missing))}")
    count, dim, version = manifest.count, manifest.dim, manifest.version

    def trailer(role: str, width: int, data_bytes: int) -> Trailer:
        return Trailer(role, count, width, data_bytes, version)

    def path(role: str) -> Path:
        return folder / manifest.files[role].name

    offsets = map_sealed(path(OFFSETS), trailer(OFFSETS, 1, 8 * (count + 1)))
    rows_bytes = int(offsets.view("<u8")[-1])
    if sealed_size(rows_bytes) != manifest.files[ROWS].size:
        raise IndexDamaged(f"the index {folder} is damaged: its offsets do not fit its rows")
    passages = PassageStore(
        map_sealed(path(ROWS), trailer(ROWS, 0, rows_bytes)), offsets, map_sealed(path(IDS), trailer(IDS, 2, 16 * count))
    )
    if manifest.type == FLAT:
        full = map_sealed(path(FULL), trailer(FULL, dim, 4 * count * dim))
        half = map_sealed(path(HALF), trailer(HALF, dim, 2 * count * dim))
        return Index(folder, manifest, text, passages, VectorRows(full, half, count, dim))
    part = map_sealed(path(PART), trailer(PART, 0, manifest.search.part_bytes))
    refine = map_sealed(path(REFINE), trailer(REFINE, dim, 2 * count * dim)) if REFINE in manifest.files else None
    return Index(folder, manifest, text, passages, None, PartRows(part, refine, count, dim))
