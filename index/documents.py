"""Text and Markdown files as documents: one file, one document, named by its path. Reads one file at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .errors import CorpusError
from .lines import decode_line, read_lines
from .passage import Passage

DOCUMENT_MAX_BYTES = 256 * 1024 * 1024
"""One document is in memory while it is cut."""

_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_FENCE_END = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*$")
"""Beginnings of lines, as CommonMark has them."""


def read_document(path: Path, name: str) -> Passage:
    """The whole of a file. The title is the first heading of a Markdown file, else the file's name.

    Raises `CorpusError` where it is not UTF-8, too large to be one document, or holds no word: its name alone is no passage.
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
    if not any(map(str.strip, lines)):
        raise CorpusError(str(path), 1, "its text is empty")
    heading = _first_heading(lines) if path.suffix.lower() == ".md" else ""
    return Passage(name, heading or path.stem, "\n".join(lines), {"source": name})


def _first_heading(lines: Sequence[str]) -> str:
    """The words of the first `#` heading that stands outside of fenced code; "" where there is none."""
    fence = ""
    for line in lines:
        if fence:
            end = _FENCE_END.match(line)
            fence = "" if end and end[1].startswith(fence) else fence
        elif begin := _FENCE.match(line):
            fence = begin[1]
        elif (mark := _HEADING.match(line)) and (words := _without_closing(line[mark.end() :].rstrip())):
            return words
    return ""


def _without_closing(words: str) -> str:
    """Without the number signs that may end a heading, behind a blank or alone."""
    before = words.rstrip("#")
    return before.rstrip() if not before or before[-1].isspace() else words
