"""Text and Markdown files as passages: "guide/start.md#2" is the second one of that file. Reads one file at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .errors import CorpusError
from .lines import decode_line, read_lines
from .passage import Passage
from .splitter import cut

_WORD = re.compile(r"\S+")
_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)


def read_document(path: Path, name: str) -> Iterator[tuple[int, Passage]]:
    """(line it begins on, passage) of a file. The title is the first heading of a Markdown file, else the file's name.

    Raises `CorpusError` where it is not UTF-8.
    """
    lines = []
    for number, line in read_lines(path):
        try:
            lines.append(decode_line(line))
        except ValueError as error:
            raise CorpusError(str(path), number, str(error)) from None
    text = "\n".join(lines)
    heading = _HEADING.search(text) if path.suffix.lower() == ".md" else None
    title = heading[1] if heading else path.stem
    starts = [word.start() for word in _WORD.finditer(text)]
    before = 0
    for number, passage in enumerate(cut(text), start=1):
        first_line = text.count("\n", 0, starts[before]) + 1
        yield first_line, Passage(f"{name}#{number}", title, passage, {"source": name})
        before += len(passage.split())
