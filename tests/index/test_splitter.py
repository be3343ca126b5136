"""No word is lost, none is doubled, and passages have the length they should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.index.demo import demo_fingerprint, demo_rows
from ragpool.index.splitter import cut

words = st.text(alphabet="abc.", min_size=1, max_size=3)
gaps = st.sampled_from([" ", " ", " ", "\n", "\n\n", "\n \n", "\r\n\r\n"])
texts = st.lists(st.tuples(words, gaps), max_size=120).map(lambda pairs: "".join(word + gap for word, gap in pairs))


@given(texts)
def test_every_word_is_kept_in_order(text: str) -> None:
    assert " ".join(cut(text, 10, 15)).split() == text.split()


@given(texts)
def test_no_passage_is_empty_or_too_long(text: str) -> None:
    lengths = [len(passage.split()) for passage in cut(text, 10, 15)]
    assert all(0 < length <= 15 + 1 for length in lengths)


@pytest.mark.parametrize("text", ["word" + "\n" * 500_000, "word " * 3_000_000])
def test_a_text_takes_time_in_proportion_to_its_length(text: str) -> None:
    """Where it were by the square, this would not end."""
    assert sum(len(passage.split()) for passage in cut(text)) == len(text.split())


def test_a_long_sentence_without_an_end_is_cut_between_words() -> None:
    tokens = [f"w{n}" for n in range(31)]
    first, second = cut(" ".join(tokens), 10, 15)
    assert (first, second) == (" ".join(tokens[:15]), " ".join(tokens[15:30]) + "\n\nw30")


def test_passages_end_where_paragraphs_end() -> None:
    paragraph = " ".join(["word"] * 60)
    assert cut("\n\n".join([paragraph] * 4)) == [f"{paragraph}\n\n{paragraph}"] * 2


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    sentence = " ".join(["word"] * 49) + " end."
    first, second = cut(" ".join([sentence] * 5))
    assert first == " ".join([sentence] * 3)
    assert second == " ".join([sentence] * 2)


def test_the_demo_corpus() -> None:
    rows = list(demo_rows())
    assert rows == list(demo_rows())
    assert len(demo_fingerprint()) == 16
    passages = [row.passage for row in rows if row.passage]
    assert len({passage.id for passage in passages}) == len(passages) == len(rows) > 400
    lengths = [len(passage.text.split()) for passage in passages]
    assert max(lengths) <= 175
    assert 90 < sum(lengths) / len(lengths) < 150
    first = next(passage for passage in passages if passage.id == "booleans#1")
    assert first.title == "Boolean operations"
    assert "***" not in first.text
    assert first.metadata == {"topic": "booleans"}
