"""Cuts a text into passages of about 100 to 150 words where paragraphs end. The same text always gives the same passages."""

from __future__ import annotations

import re
from collections.abc import Iterator

LEAST_WORDS = 100
MOST_WORDS = 150

_PARAGRAPH_END = re.compile(r"\n[ \t]*\n+")
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+")


def cut(text: str, least: int = LEAST_WORDS, most: int = MOST_WORDS) -> list[str]:
    """Passages of at most `most` words. One is shorter than `least` where the next paragraph would not fit; a tail that is
    shorter than a quarter of `least` joins the passage before it. A paragraph longer than `most` is cut between sentences, else
    between words."""
    passages: list[list[str]] = []
    words = 0
    for part in _parts(text, most):
        length = len(part.split())
        if not passages or words >= least or words + length > most:
            passages.append([])
            words = 0
        passages[-1].append(part)
        words += length
    if len(passages) > 1 and words < least // 4:
        tail = passages.pop()
        passages[-1] += tail
    return ["\n\n".join(parts) for parts in passages]


def _parts(text: str, most: int) -> Iterator[str]:
    """Paragraphs, or pieces of those that are longer than `most` words."""
    for paragraph in _PARAGRAPH_END.split(text.replace("\r\n", "\n")):
        paragraph = paragraph.strip("\n").rstrip()
        if not paragraph.strip():
            continue
        if len(paragraph.split()) <= most:
            yield paragraph
        else:
            yield from _pieces(paragraph, most)


def _pieces(paragraph: str, most: int) -> Iterator[str]:
    piece: list[str] = []
    words = 0
    for sentence in _SENTENCE_END.split(paragraph):
        tokens = sentence.split()
        if len(tokens) > most:
            if piece:
                yield " ".join(piece)
                piece, words = [], 0
            rest = (len(tokens) - 1) // most * most
            for first in range(0, rest, most):
                yield " ".join(tokens[first : first + most])
            tokens = tokens[rest:]
            sentence = " ".join(tokens)
        if words + len(tokens) > most:
            yield " ".join(piece)
            piece, words = [], 0
        if tokens:
            piece.append(sentence)
            words += len(tokens)
    if piece:
        yield " ".join(piece)
