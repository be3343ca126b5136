"""Files that are written once, in one go, and end in a trailer that says what they are; read by mapping them into memory.

The data stands first, at offset 0, so that rows are aligned however a reader maps them; the trailer is the last 64 bytes, so that
a file can be named after its content. A mapped file is never written to or cut: that would end
every process that reads it (SIGBUS).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import IndexDamaged

ALIGNMENT = 64
MAGIC = b"RAGPOOL\x01"

_TRAILER = struct.Struct("<8s16sQQQ16s")
"""magic, role, rows, width, bytes of data, version: 64 bytes."""


@dataclass(frozen=True, slots=True)
class Trailer:
    """What the end of a file says. `width`: values in a row, 0 where rows differ."""

    role: str
    rows: int
    width: int
    data_bytes: int
    version: str

    def pack(self) -> bytes:
        return _TRAILER.pack(MAGIC, self.role.encode(), self.rows, self.width, self.data_bytes, self.version.encode())


class Unsealed:
    """A file whose data is complete and that wants its trailer: hashed as it stands, then one `seal`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data_bytes = 0
        self._hash = hashlib.sha256()
        piece = memoryview(bytearray(1 << 20))
        with open(path, "rb", buffering=0) as file:
            while read := file.readinto(piece):
                self._hash.update(piece[:read])
                self.data_bytes += read

    def data_digest(self) -> bytes:
        """SHA-256 of the data."""
        return self._hash.digest()

    def seal(self, role: str, rows: int, width: int, version: str) -> tuple[int, str]:
        """Appends the trailer and brings all to disk; (size in bytes, SHA-256 of the whole file)."""
        trailer = Trailer(role, rows, width, self.data_bytes, version)
        ending = bytes(-self.data_bytes % ALIGNMENT) + trailer.pack()
        with open(self.path, "ab") as file:
            file.write(ending)
            file.flush()
            os.fsync(file.fileno())
        self._hash.update(ending)
        return self.data_bytes + len(ending), self._hash.hexdigest()


def map_sealed(path: Path, expected: Trailer) -> NDArray[np.uint8]:
    """The data of `path`, read-only, straight from the page cache.

    A shared lock lasts as long as the returned array or anything made from it: `is_free` tells whether one is left.
    Raises `IndexDamaged` where size or trailer are not `expected`.
    """
    with open(path, "rb") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        size, wanted = os.fstat(file.fileno()).st_size, sealed_size(expected.data_bytes)
        if size != wanted:
            raise IndexDamaged(f"{path} has {size} bytes and must have {wanted}")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # keeps a duplicate of the descriptor, and so the lock
    if mapped[-_TRAILER.size :] != expected.pack():
        raise IndexDamaged(f"{path} does not end like a file of version {expected.version}: it was damaged or exchanged")
    return np.frombuffer(mapped, dtype=np.uint8, count=expected.data_bytes)


def check_sealed(path: Path, role: str, version: str, size: int) -> None:
    """Raises `IndexDamaged` where the file is not there, or does not end like that of `role` and `version`, of `size` bytes."""
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno()).st_size
            file.seek(max(0, found - _TRAILER.size))
            ending = file.read()
    except OSError as error:
        raise IndexDamaged(f"{path} cannot be read: {error.strerror or error}") from None
    if found != size:
        raise IndexDamaged(f"{path} has {found} bytes and must have {size}")
    _, _, rows, width, data_bytes, _ = _TRAILER.unpack(ending)
    if ending != Trailer(role, rows, width, data_bytes, version).pack() or sealed_size(data_bytes) != size:
        raise IndexDamaged(f"{path} does not end like a file of version {version}: it was damaged or exchanged")


def is_free(path: Path) -> bool:
    """Whether no process has `path` mapped. False where the file system has no locks to tell by."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sealed_size(data_bytes: int) -> int:
    """Bytes of a file that ends in its trailer, with so many of data."""
    return data_bytes + -data_bytes % ALIGNMENT + _TRAILER.size
