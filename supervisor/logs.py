"""Files that grow: the log of one child and the parent's own, each bounded, with what came before in NAME.log.1.

A disk that is full costs lines, never more: nothing here raises.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

LOG_MAX_BYTES = 1024 * 1024
"""A log beyond this is put aside."""
LOG_TAIL_BYTES = 2048
_READ_BYTES = 32 * 1024


class Log:
    """What one incarnation writes to `path`; None: it writes to the parent's stderr, and nothing can be read back."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._start = 0
        self._put_aside = False

    def open(self) -> int:
        """A descriptor for a child that is about to start: 2 without a file, DEVNULL where it cannot be opened."""
        if self._path is None:
            return 2
        self.bound()
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return subprocess.DEVNULL
        self._start = os.fstat(descriptor).st_size
        self._put_aside = False
        return descriptor

    def bound(self) -> None:
        """Put aside what is too much. The file stays, emptied: a child that writes to it goes on to do so."""
        if self._path is None:
            return
        try:
            size = self._path.stat().st_size
            if size <= LOG_MAX_BYTES:
                return
            copy_end(self._path, aside(self._path))
            os.truncate(self._path, 0)
        except OSError:
            return
        self._start, self._put_aside = 0, True

    def last(self) -> str:
        """The end of what was written since `open`, up to 32 KiB."""
        if self._path is None:
            return ""
        text = _end_of(self._path, self._start)
        if self._put_aside and len(text) < _READ_BYTES:
            text = (_end_of(aside(self._path), 0) + text)[-_READ_BYTES:]
        return text.decode(errors="replace")


def aside(path: Path) -> Path:
    """Where the older part of a log is."""
    return path.with_name(path.name + ".1")


def copy_end(source: Path, target: Path) -> None:
    """The last `LOG_MAX_BYTES` of `source` replace `target`; where there is no room for them they are lost. Raises OSError only
    where `source` cannot be read."""
    with source.open("rb") as file:
        file.seek(-min(LOG_MAX_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
        data = file.read(LOG_MAX_BYTES)
    try:
        target.write_bytes(data)
    except OSError:
        pass


def _end_of(path: Path, start: int) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(min(start, size), size - _READ_BYTES))
            return file.read(_READ_BYTES)
    except OSError:
        return b""


def tail(text: str) -> str:
    """The last whole lines of `text`, at most `LOG_TAIL_BYTES`."""
    data = text.encode()
    if len(data) <= LOG_TAIL_BYTES:
        return text
    cut = data[-LOG_TAIL_BYTES:]
    return cut[cut.find(b"\n") + 1 :].decode(errors="ignore")
