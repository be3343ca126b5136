"""Checksums of an index: all files against the manifest, and that once per host and version.

Which files were hashed is remembered by inode, size and time of last change, each as soon as it was: who is stopped on the way
leaves the rest to the next one, and a file that was changed since is hashed again. What cannot be remembered is only hashed once
more. Never loads torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .demo import cache_folder
from .errors import IndexDamaged
from .manifest import FileEntry, check_fields
from .models import hash_file
from .store import Index

REMEMBERED = "verified.json"
HASHING_LOCK = "verified.lock"
_LOCK = "verified.json.lock"
_KEPT_MAX = 1_000
_WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked, and what was found."""

    name: str
    found: str


def verify_files(index: Index, cache_dir: str | os.PathLike[str] | None = None) -> Check:
    """Every file against its SHA-256 in the manifest, and that against its own. Raises `IndexDamaged` naming the first that
    differs. Files that are whole are remembered, so that no worker hashes them again before it serves."""
    check_fields(index.path, index.text)
    folder = _folder(cache_dir)
    for entry in index.manifest.files.values():
        _verify_file(index, entry, folder)
    total = sum(entry.size for entry in index.manifest.files.values())
    return Check("checksums", f"{len(index.manifest.files)} files, {total} bytes")


def verify_once(index: Index, cache_dir: str | os.PathLike[str] | None = None, goes_on: Callable[[], None] | None = None) -> bool:
    """Hashes those files of `index` that this host has not hashed before; True if there were any. Raises `IndexDamaged`.

    Workers that start together wait for the one that hashes. `goes_on` is called again and again while it does, and while they
    wait for one that does: it touches the lock as it goes.
    """
    check_fields(index.path, index.text)
    folder = _folder(cache_dir)

    def stamp() -> None:
        with contextlib.suppress(OSError):
            os.utime(folder / HASHING_LOCK)
        if goes_on is not None:
            goes_on()

    with _locked(folder, HASHING_LOCK, goes_on):
        known = _read(folder / REMEMBERED)
        fresh = [entry for entry in index.manifest.files.values() if known.get(_key(index.path / entry.name)) != entry.sha256]
        for entry in fresh:
            _verify_file(index, entry, folder, stamp)
    return bool(fresh)


def _folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    return Path(cache_dir) if cache_dir is not None else cache_folder()


def _verify_file(index: Index, entry: FileEntry, folder: Path, goes_on: Callable[[], None] | None = None) -> None:
    path = index.path / entry.name
    key = _key(path)
    try:
        hashed = hash_file(path, goes_on)
    except OSError as error:
        raise IndexDamaged(f"the index {index.path} is damaged: {entry.name} cannot be read ({error.strerror})") from None
    if hashed != entry.sha256:
        raise IndexDamaged(f"the index {index.path} is damaged: {entry.name} does not have the checksum its manifest says")
    if key and key == _key(path):  # it was not exchanged while it was read
        _remember(folder, key, hashed)


def _remember(folder: Path, key: str, sha256: str) -> None:
    """The newest stand last, and the oldest are forgotten."""
    with _locked(folder, _LOCK):
        known = _read(folder / REMEMBERED)
        known.pop(key, None)
        _write(folder / REMEMBERED, dict([*known.items(), (key, sha256)][-_KEPT_MAX:]))


def _key(path: Path) -> str:
    """What differs once the file has changed; "" where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


@contextlib.contextmanager
def _locked(folder: Path, name: str, goes_on: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds a lock of the memory in `folder`; goes on without one where nothing can be written, or locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / name, "ab")  # noqa: SIM115 - closed below
    except OSError:
        yield
        return
    with lock:
        with contextlib.suppress(OSError):
            touched = 0
            while not _taken(lock):
                before, touched = touched, os.fstat(lock.fileno()).st_mtime_ns
                if goes_on is not None and touched != before:
                    goes_on()
                time.sleep(_WAIT_S)
        yield


def _taken(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
