"""The first half of a build: every row of the corpus is checked and written as a passage. Needs no device."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .build_state import PASSAGES, ReadPassages, write_json
from .corpus import Row
from .errors import ConfigurationError, CorpusError
from .passage import BadRow, encoded_text, pack_passage
from .passage_writer import PassageWriter

READING = "reading"

_READ_ROWS = 4_096
_READ_BYTES = 16 << 20
"""What is read before it is checked for ids that are taken, and written."""

_TOLD_MAX = 10

Progress = Callable[[str, int, "int | None"], None]
"""Called with the stage (READING, then `build.ENCODING`), passages done, and how many there are, once that is known."""


class Skipped:
    """How many rows were skipped, and what was wrong with the first few. Where none may be, it raises what it is told."""

    def __init__(self, skip_bad: bool) -> None:
        self.count = 0
        self.first: list[str] = []
        self.allowed = skip_bad

    def add(self, error: CorpusError) -> None:
        if not self.allowed:
            raise error
        self.count += 1
        if len(self.first) < _TOLD_MAX:
            self.first.append(str(error))


def write_passages(
    rows: Iterable[Row], folder: Path, reading: str, encode: str, skip_bad: bool, progress: Progress
) -> ReadPassages:
    """Writes every good row into `folder`; counts the others, if they may be skipped, else raises the first.

    Once it returns the passages are on disk, and known to be complete. `reading` identifies what `rows` are read from.
    """
    (folder / PASSAGES).unlink(missing_ok=True)
    with contextlib.closing(PassageWriter(folder)) as writer:
        skipped = Skipped(skip_bad)
        for chunk in _chunks(rows, encode, skipped, writer):
            _append(writer, chunk, skipped)
            progress(READING, writer.count, None)
        progress(READING, writer.count, writer.count)
        if not writer.count:
            told = f" ({skipped.count} rows were skipped, the first: {skipped.first[0]})" if skipped.count else ""
            raise ConfigurationError(f"the corpus holds no passage{told}")
        read = ReadPassages(reading, writer.count, writer.finish(), skipped.count, tuple(skipped.first))
    write_json(folder / PASSAGES, dataclasses.asdict(read))
    return read


_Packed = tuple[Row, str, bytes]


def _chunks(rows: Iterable[Row], encode: str, skipped: Skipped, writer: PassageWriter) -> Iterator[list[_Packed]]:
    chunk: list[_Packed] = []
    size = 0
    for row in rows:
        error = _packed(row, encode, chunk)
        if error is None:
            size += len(chunk[-1][2])
        else:
            if not skipped.allowed:  # an id that is taken further up is the first thing wrong
                _append(writer, chunk, skipped)
            skipped.add(error)
        if len(chunk) == _READ_ROWS or size > _READ_BYTES:
            yield chunk
            size = 0
    yield chunk


def _packed(row: Row, encode: str, chunk: list[_Packed]) -> CorpusError | None:
    """Adds the row to `chunk`, or says what is wrong with it."""
    passage = row.passage
    if passage is None:
        return row.error()
    if not encoded_text(passage.title, passage.text, encode):
        return row.error("its text is empty")
    try:
        chunk.append((row, passage.id, pack_passage(passage)))
    except BadRow as error:
        return row.error(str(error))
    return None


def _append(writer: PassageWriter, chunk: list[_Packed], skipped: Skipped) -> None:
    """Writes and empties `chunk`."""
    taken = writer.append([id_ for _, id_, _ in chunk], [packed for _, _, packed in chunk])
    for position in taken:
        row, id_, _ = chunk[position]
        skipped.add(row.error(f"its id {id_!r} is taken by an earlier passage"))
    chunk.clear()
