"""Queries and relevance judgements for an evaluation, from the files that BEIR and TREC write them in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from .chunks import document_of
from .errors import ConfigurationError, CorpusError
from .lines import decode_line, read_lines

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> passage id -> grade; 0 and below mean not relevant."""


def read_queries(path: str | os.PathLike[str]) -> dict[str, str]:
    """Query id -> text of a JSONL file with `_id` or `id`, and `text` or `query`, or of a TSV file of ids and texts.

    Raises `CorpusError` naming the line, `ConfigurationError` where there is no such file or no query in it.
    """
    file = _there(path)
    tsv = ".tsv" in file.suffixes
    queries: dict[str, str] = {}
    for number, line in read_lines(file):
        if not line.strip():
            continue
        try:
            id_, text = _tsv_query(decode_line(line)) if tsv else _json_query(decode_line(line))
        except ValueError as error:
            raise CorpusError(str(file), number, str(error)) from None
        if queries.setdefault(id_, text) != text:
            raise CorpusError(str(file), number, f"its id {id_!r} is taken by an earlier query")
    if not queries:
        raise ConfigurationError(f"the file {file} holds no query")
    return queries


def read_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    """The judgements of a TSV file: BEIR's three columns (query, passage, grade, with or without a header) or TREC's four (query,
    iteration, passage, grade; also separated by blanks). A first line is a header where its last column is a word without a
    digit. Raises as `read_queries`."""
    file = _there(path)
    qrels: dict[str, dict[str, int]] = {}
    for number, line in read_lines(file):
        if not line.strip():
            continue
        try:
            text = decode_line(line)
            columns = text.split("\t") if "\t" in text else text.split()
            grade = _grade(columns)
        except ValueError as error:
            raise CorpusError(str(file), number, str(error)) from None
        if grade is None:
            if number > 1 or not _is_word(columns[-1]):
                raise CorpusError(str(file), number, f"its grade {columns[-1]!r} is not a whole number")
            continue
        qrels.setdefault(columns[0], {})[columns[-2]] = grade
    if not qrels:
        raise ConfigurationError(f"the file {file} holds no judgement")
    return qrels


_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?", re.ASCII)
"""A grade, also written as 1.0, in which trec_eval finds 1 too. What it makes of 0.5 (0) is refused."""

_PIECE = re.compile(r"(.+)#[0-9]+", re.DOTALL)
"""What the id of a piece looks like (`chunks.py`): its document's, and a number."""


class JudgedNames:
    """(passage id, metadata) -> the id by which `qrels` judge it: that of its document where it is a piece of one, unless
    judgements name pieces: then each passage stands for itself, the unjudged too. `pieces`: how many were judged by their
    documents."""

    def __init__(self, qrels: Qrels) -> None:
        self.pieces = 0
        judged = {id_ for grades in qrels.values() for id_ in grades}
        found = (_PIECE.fullmatch(id_) for id_ in judged)
        self._by_document = not any(piece and piece[1] not in judged for piece in found)

    def __call__(self, passage_id: str, metadata: Mapping[str, object]) -> str:
        document = document_of(passage_id, metadata) if self._by_document else passage_id
        self.pieces += document != passage_id
        return document


def _there(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if not file.is_file():
        raise ConfigurationError(f"there is no file {file}")
    return file


def _grade(columns: list[str]) -> int | None:
    if len(columns) not in (3, 4):
        raise ValueError(f"it has {len(columns)} columns; judgements have 3 (query, passage, grade) or 4 (with TREC's iteration)")
    whole = _WHOLE.fullmatch(columns[-1].strip())
    return int(whole[1]) if whole else None


def _is_word(text: str) -> bool:
    return any(map(str.isalpha, text)) and not any(map(str.isdigit, text))


def _json_query(line: str) -> tuple[str, str]:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    id_ = fields.get("_id", fields.get("id"))
    text = fields.get("text", fields.get("query"))
    if type(id_) is int:
        id_ = str(id_)
    if not isinstance(id_, str) or not isinstance(text, str) or not text.strip():
        raise ValueError("it has no _id or id, or no text or query")
    return id_, text


def _tsv_query(line: str) -> tuple[str, str]:
    id_, tab, text = line.partition("\t")
    if not tab or not text.strip():
        raise ValueError("it is not an id, a tab and a text")
    return id_, text
