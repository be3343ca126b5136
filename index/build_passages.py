"""The first half of a build: every row of the corpus is checked and written as a passage. Needs no model and no device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .corpus import Row
from .errors import ConfigurationError, CorpusError
from .passage import BadRow, encoded_text, pack_passage
from .passage_writer import PassageWriter

READING = "reading"

_READ_ROWS = 4_096
_TOLD_MAX = 10

Progress = Callable[[str, int, "int | None"], None]
"""Called with the stage (READING, then `build.ENCODING`), passages done, and how many there are, once that is known."""


class Skipped:
    """How many rows were skipped, and what was wrong with the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[CorpusError] = []

    def add(self, error: CorpusError) -> None:
        self.count += 1
        if len(self.first) < _TOLD_MAX:
            self.first.append(error)


def write_passages(rows: Iterable[Row], writer: PassageWriter, encode: str, skip_bad: bool, progress: Progress) -> Skipped:
    """Writes every good row; tells what is wrong with the others, if they may be skipped, else raises the first."""
    skipped = Skipped()

    def bad(error: CorpusError) -> None:
        if not skip_bad:
            raise error
        skipped.add(error)

    chunk: list[tuple[Row, str, bytes]] = []
    for row in rows:
        error = _packed(row, encode, chunk)
        if error is not None:
            if not skip_bad:  # an id that is taken further up is the first thing wrong
                _append(writer, chunk, bad)
            bad(error)
        if len(chunk) == _READ_ROWS:
            _append(writer, chunk, bad)
            progress(READING, writer.count, None)
    _append(writer, chunk, bad)
    progress(READING, writer.count, writer.count)
    if not writer.count:
        told = f" ({skipped.count} rows were skipped, the first: {skipped.first[0]})" if skipped.count else ""
        raise ConfigurationError(f"the corpus holds no passage{told}")
    writer.finish()
    return skipped


def _packed(row: Row, encode: str, chunk: list[tuple[Row, str, bytes]]) -> CorpusError | None:
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


def _append(writer: PassageWriter, chunk: list[tuple[Row, str, bytes]], bad: Callable[[CorpusError], None]) -> None:
    """Writes and empties `chunk`."""
    taken = writer.append([id_ for _, id_, _ in chunk], [packed for _, _, packed in chunk])
    for position in taken:
        row, id_, _ = chunk[position]
        bad(row.error(f"its id {id_!r} is taken by an earlier passage"))
    chunk.clear()
