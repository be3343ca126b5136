"""Checksums of an index: all files against the manifest, and that once per host and version.

Which files were hashed is remembered by inode, size and time of last change: a file that was changed since is hashed again. What
cannot be remembered is only hashed once more. Never loads torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .demo import cache_folder
from .errors import IndexDamaged
from .manifest import check_fields
from .models import hash_file
from .store import Index

REMEMBERED = "verified.json"
_LOCK = "verified.lock"
_KEPT_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked, and what was found."""

    name: str
    found: str


def verify_files(index: Index) -> Check:
    """Every file against its SHA-256 in the manifest, and that against its own. Raises `IndexDamaged` naming the first that
    differs."""
    check_fields(index.path, index.text)
    total = 0
    for entry in index.manifest.files.values():
        path = index.path / entry.name
        try:
            hashed = hash_file(path)
        except OSError as error:
            raise IndexDamaged(f"the index {index.path} is damaged: {entry.name} cannot be read ({error.strerror})") from None
        if hashed != entry.sha256:
            raise IndexDamaged(f"the index {index.path} is damaged: {entry.name} does not have the checksum its manifest says")
        total += entry.size
    return Check("checksums", f"{len(index.manifest.files)} files, {total} bytes")


def verify_once(index: Index, cache_dir: str | os.PathLike[str] | None = None) -> bool:
    """Hashes the files of `index` unless this host has done so before; True if it was done now. Raises `IndexDamaged`.

    Workers that start together wait for the one that hashes.
    """
    check_fields(index.path, index.text)
    folder = Path(cache_dir) if cache_dir is not None else cache_folder()
    with _locked(folder):
        known = _read(folder / REMEMBERED)
        keys = _keys(index)
        if all(known.get(key) == sha256 for key, sha256 in keys.items()):
            return False
        verify_files(index)
        if keys == _keys(index):  # nothing was exchanged while it was read
            kept = {key: sha256 for key, sha256 in known.items() if key not in keys}
            _write(folder / REMEMBERED, dict(list({**kept, **keys}.items())[-_KEPT_MAX:]))
        return True


def _keys(index: Index) -> dict[str, str]:
    keys = {}
    for entry in index.manifest.files.values():
        try:
            found = (index.path / entry.name).stat()
        except OSError:
            continue
        keys[f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"] = entry.sha256
    return keys


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of the memory in `folder`; goes on without one where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / _LOCK, "ab")  # noqa: SIM115 - closed below
    except OSError:
        yield
        return
    with lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, known: dict[str, str]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        draft.write_text(json.dumps(known, indent=1), encoding="utf-8")
        os.replace(draft, path)
