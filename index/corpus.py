"""Reads a corpus, file by file and row by row, whatever its shape. Never holds more than one row (Parquet: one batch of rows,
text files: one file).

| file                                            | a row is                                                     |
|-------------------------------------------------|--------------------------------------------------------------|
| .jsonl .ndjson, also with .gz or .zst           | a JSON object: {_id, title, text}, {id, contents}, {id, title, text} |
| .tsv, also with .gz or .zst                     | a line under a header that names id, text, title             |
| .parquet                                        | a row with such columns                                      |
| .txt .md                                        | a document, cut into passages                                |
| a folder                                        | the rows of all such files in it and in its folders          |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .chunks import Cut, cut_by_words, pieces_of
from .documents import read_document
from .errors import ConfigurationError, CorpusError
from .lines import decode_line, read_lines
from .parquet import read_parquet
from .passage import BadRow, Passage
from .rows import Fields, missing_column, passage_from, passage_from_json, passage_from_tsv, split_tsv

JSON_LINES = (".jsonl", ".ndjson")
TSV = (".tsv",)
COMPRESSED = (".gz", ".zst")
PARQUET = (".parquet",)
DOCUMENTS = (".txt", ".md")
KNOWN = "JSONL, TSV (both also .gz, .zst), Parquet, .txt and .md files, and folders of them"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a corpus: a passage, or the reason why it is none. `line` counts from 1."""

    file: str
    line: int
    passage: Passage | None
    reason: str = ""
    unit: str = "line"

    def error(self, reason: str = "") -> CorpusError:
        return CorpusError(self.file, self.line, reason or self.reason, self.unit)


def read_corpus(
    paths: Sequence[str | os.PathLike[str]],
    fields: Fields = Fields(),  # noqa: B008 - frozen
    cut: Cut | None = None,
) -> Iterator[Row]:
    """The rows of all `paths`, in order; long ones cut by `cut`, without it only text files are, by words.

    Raises `CorpusError` where a file cannot be read on; bad rows are told in the row.
    """
    for path, root in corpus_files(paths):
        if _kind(path) in DOCUMENTS:
            yield from _document_rows(path, root, cut or cut_by_words)
        elif cut is None:
            yield from _reader(path)(path, fields)
        else:
            yield from (piece for row in _reader(path)(path, fields) for piece in _pieces(row, cut))


def corpus_files(paths: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, Path]]:
    """(file, folder its name is told from) of all files that `paths` name, in their order.

    Raises `ConfigurationError` where a path is not there or of no known kind, `CorpusError` where a folder cannot be read.
    """
    files = [found for path in paths for found in _files(Path(path))]
    if not files:
        raise ConfigurationError(f"there is no corpus file in {', '.join(map(str, paths))}: known are {KNOWN}")
    return files


def told_name(name: str) -> str:
    """The name of a file as it can be told and kept: bytes in it that are not UTF-8 become \\x and their digits."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


_Reader = Callable[[Path, Fields], Iterator[Row]]


def _files(path: Path) -> Iterator[tuple[Path, Path]]:
    if path.is_dir():
        yield from ((file, path) for file in _files_in(path) if _kind(file))
    elif not path.exists():
        raise ConfigurationError(f"the corpus {path} does not exist")
    elif not _kind(path):
        raise ConfigurationError(f"the corpus {path} is of no known kind: known are {KNOWN}")
    else:
        yield path, path.parent


def _files_in(root: Path) -> Iterator[Path]:
    """The files in a folder, then those in its folders, each in the order of names; when all of these were read, those in folders
    that links lead to, so that no link gives another name to what is there without it. Each folder once. Raises `CorpusError`
    where a folder cannot be read or a link leads to nothing: what is in it would be missing."""
    seen: set[tuple[int, int]] = set()
    waiting, linked = [root], list[Path]()
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        try:
            found = folder.stat()
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda entry: entry.name)
            folders = {entry.name: entry.is_symlink() for entry in entries if entry.is_dir()}
            lost = [entry for entry in entries if entry.is_symlink() and not os.path.exists(entry)]
        except OSError as error:
            raise CorpusError(str(folder), 0, f"the folder cannot be read: {error.strerror or error}") from None
        if lost:
            raise CorpusError(lost[0].path, 0, f"the link leads to nothing: there is no {os.readlink(lost[0])}")
        yield from (folder / entry.name for entry in entries if entry.name not in folders)
        waiting += [folder / name for name in reversed(folders) if not folders[name]]
        linked += [folder / name for name in folders if folders[name]]


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    last = suffixes[-1] if suffixes else ""
    if last in COMPRESSED:
        last = suffixes[0] if len(suffixes) == 2 and suffixes[0] in JSON_LINES + TSV else ""
    return last if last in JSON_LINES + TSV + PARQUET + DOCUMENTS else ""


def _reader(path: Path) -> _Reader:
    kind = _kind(path)
    if kind in JSON_LINES:
        return _json_rows
    if kind in TSV:
        return _tsv_rows
    return _parquet_rows


def _json_rows(path: Path, fields: Fields) -> Iterator[Row]:
    for number, line in read_lines(path):
        if line.strip():
            yield _row(path, number, lambda line=line: passage_from_json(decode_line(line), fields))  # type: ignore[misc]


def _tsv_rows(path: Path, fields: Fields) -> Iterator[Row]:
    header: list[str] | None = None
    for number, line in read_lines(path):
        if header is None:
            header = _header(path, number, line, fields)
        elif line.strip():
            names = header
            yield _row(path, number, lambda line=line: passage_from_tsv(decode_line(line), names, fields))  # type: ignore[misc]  # noqa: B023


def _header(path: Path, number: int, line: bytes, fields: Fields) -> list[str]:
    try:
        header = split_tsv(decode_line(line))
    except ValueError as error:
        raise CorpusError(str(path), number, str(error)) from None
    if len(set(header)) != len(header) or len(header) < 2:
        raise CorpusError(str(path), number, f"{line[:80]!r} is not a header of tab-separated field names like id, text, title")
    if problem := missing_column(header, fields):
        raise CorpusError(str(path), number, problem)
    return header


def _parquet_rows(path: Path, fields: Fields) -> Iterator[Row]:
    for number, row in enumerate(read_parquet(path, fields), start=1):
        if isinstance(row, BadRow):
            yield Row(str(path), number, None, str(row), "row")
        else:
            yield _row(path, number, lambda row=row: passage_from(row, fields), "row")  # type: ignore[misc]


def _document_rows(path: Path, root: Path, cut: Cut) -> Iterator[Row]:
    try:
        document = read_document(path, path.relative_to(root).as_posix())
    except CorpusError as error:
        yield Row(str(path), error.line, None, error.reason)
        return
    line = counted = 0
    for start, passage in pieces_of(document, cut):
        line, counted = line + document.text.count("\n", counted, start), start
        yield Row(str(path), line + 1, passage)


def _pieces(row: Row, cut: Cut) -> Iterator[Row]:
    if row.passage is None:
        yield row
    else:
        for _, passage in pieces_of(row.passage, cut):
            yield replace(row, passage=passage)


def _row(path: Path, number: int, read: Callable[[], Passage], unit: str = "line") -> Row:
    try:
        return Row(str(path), number, read(), unit=unit)
    except (BadRow, ValueError) as error:
        return Row(str(path), number, None, str(error), unit)
