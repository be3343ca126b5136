"""Text and Markdown files as documents: one file, one document, named by its path. Reads one file at a time."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import CorpusError
from .lines import decode_line, read_lines
from .passage import Passage

DOCUMENT_MAX_BYTES = 256 * 1024 * 1024
"""One document is in memory while it is cut."""

_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)


def read_document(path: Path, name: str) -> Passage:
    """The whole of a file. The title is the first heading of a Markdown file, else the file's name.

    Raises `CorpusError` where it is not UTF-8, or too large to be one document.
    """
    lines, size = [], 0
    for number, line in read_lines(path):
        try:
            lines.append(decode_line(line))
        except ValueError as error:
            raise CorpusError(str(path), number, str(error)) from None
        size += len(line)
        if size > DOCUMENT_MAX_BYTES:
            raise CorpusError(str(path), number, f"the document is larger than {DOCUMENT_MAX_BYTES} bytes")
    text = "\n".join(lines)
    heading = _HEADING.search(text) if path.suffix.lower() == ".md" else None
    return Passage(name, heading[1] if heading else path.stem, text, {"source": name})
