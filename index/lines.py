"""The lines of a text file, plain or compressed, one at a time. Whatever is wrong with it is told with the file and the line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigurationError, CorpusError

LINE_MAX_BYTES = 64 * 1024 * 1024

ZSTD_WINDOW_MAX_BYTES = 1 << 31
"""What `zstd --long=31` makes, as public dumps are; the library alone refuses more than 128 MiB. A file that was made with a
window of so many bytes takes as much memory to read, once it is that long."""

_PIECE_BYTES = 1 << 12
"""Compressed bytes that are decompressed at a time: of zeros alone they hold 128 MiB, however long the file is."""

_CHUNK_BYTES = 1 << 17
_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end) of `path`, decompressed by its suffix .gz or .zst.

    Raises `CorpusError` where the file cannot be read on: nothing behind that point is known.
    """
    number = 0
    try:
        with _opened(path) as stream:
            while line := stream.readline(LINE_MAX_BYTES + 1):
                number += 1
                if len(line) > LINE_MAX_BYTES:
                    raise CorpusError(str(path), number, f"the line is longer than {LINE_MAX_BYTES} bytes")
                yield number, (line.removeprefix(_BOM) if number == 1 else line).rstrip(b"\r\n")
    except EOFError:
        raise CorpusError(str(path), number + 1, "the compressed data ends too early: the file is cut short") from None
    except (gzip.BadGzipFile, zlib.error, _BrokenFrame) as error:
        raise CorpusError(str(path), number + 1, f"the compressed data is damaged ({error})") from None
    except OSError as error:
        raise CorpusError(str(path), number, f"cannot be read: {error.strerror or error}") from None


def decode_line(line: bytes) -> str:
    """The line as text; raises ValueError saying where it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: byte {error.start + 1} of the line cannot be decoded") from None


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    with open(path, "rb") as file:
        suffix = path.suffix.lower()
        if suffix == ".gz":
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield unzipped
        elif suffix == ".zst":
            yield io.BufferedReader(_ZstdStream(file), _CHUNK_BYTES)
        else:
            yield file


class _BrokenFrame(Exception):
    """A Zstandard frame that does not decompress."""


class _ZstdStream(io.RawIOBase):
    """Decompressed bytes of one Zstandard frame or several. Unlike the library's reader it notices one that is cut short."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        try:
            import zstandard
        except ImportError:
            raise ConfigurationError("reading .zst files needs the package zstandard: pip install 'ragpool[zstd]'") from None
        self._zstandard: Any = zstandard
        self._file = file
        self._frame: Any = None
        self._left = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._advance():
            pass
        taken = self._ready[: len(buffer)]
        buffer[: len(taken)] = taken
        self._ready = self._ready[len(taken) :]
        return len(taken)

    def _advance(self) -> bool:
        """Decompresses some more; False at a proper end."""
        data = self._left or self._file.read(_PIECE_BYTES)
        self._left = b""
        if not data:
            if self._frame is not None:
                raise EOFError
            return False
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX_BYTES).decompressobj()
        try:
            self._ready = memoryview(self._frame.decompress(data))
        except self._zstandard.ZstdError as error:
            raise _BrokenFrame(str(error)) from None
        if self._frame.eof:
            self._left = self._frame.unused_data
            self._frame = None
        return True
