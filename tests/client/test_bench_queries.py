"""The questions of a load generator, from files that are right and from files that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from ragpool.client.bench_queries import load_queries
from ragpool.conf.errors import ConfigurationError


def test_built_in_questions_are_many_distinct_and_of_mixed_lengths() -> None:
    found = load_queries(None, 0)
    assert len(found.texts) == len(set(found.texts)) > 10_000
    assert found.words()["min"] <= 4
    assert found.words()["max"] >= 30
    assert found.source == "built in"


def test_the_seed_decides_the_order() -> None:
    assert load_queries(None, 1).texts == load_queries(None, 1).texts
    assert load_queries(None, 1).texts != load_queries(None, 2).texts
    assert set(load_queries(None, 1).texts) == set(load_queries(None, 2).texts)


def test_shares_are_the_whole_and_no_two_overlap() -> None:
    found = load_queries(None, 0)
    shares = [found.share(n, 3) for n in range(3)]
    assert sorted(text for share in shares for text in share) == sorted(found.texts)


@pytest.mark.parametrize(
    ("name", "content", "texts", "repeats"),
    [
        ("q.txt", "one\n\n  two words \r\none\n", {"one", "two words"}, 1),
        ("q.txt", "\ufeffone\n[1, 2] is a list", {"one", "[1, 2] is a list"}, 0),
        ("q.jsonl", '{"_id": "1", "text": "one"}\n\n{"_id": "2", "text": " a\u2028b "}\n', {"one", "a\u2028b"}, 0),
        ("queries", '{"text": "one"}', {"one"}, 0),
        ("q.txt", "{not} json\nat all", {"{not} json", "at all"}, 0),
    ],
)
def test_files(tmp_path: Path, name: str, content: str, texts: set[str], repeats: int) -> None:
    (tmp_path / name).write_bytes(content.encode())
    found = load_queries(str(tmp_path / name), 0)
    assert set(found.texts) == texts
    assert (len(found.texts), found.repeats) == (len(texts), repeats)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("q.txt", b"", "holds no query"),
        ("q.txt", b"\n \n", "holds no query"),
        ("q.txt", b"fine\n\xff\xfe", "not UTF-8 (at byte 5)"),
        ("q.jsonl", b'{"text": "one"}\n\nnot json\n', "line 3: not a JSON object"),
        ("q.jsonl", b'{"text": "one"}\n{"query": "two"}\n', 'line 2: no "text"'),
        ("q.jsonl", b'{"text": 3}\n', 'line 1: no "text"'),
        ("q.jsonl", b'{"text": "  "}\n', 'line 1: no "text"'),
        ("q.jsonl", b"[" * 100_000, "line 1: not a JSON object"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_queries(str(tmp_path / name), 0)
    assert words in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"No such file.*nowhere"):
        load_queries(str(tmp_path / "nowhere"), 0)
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load_queries(str(tmp_path), 0)
