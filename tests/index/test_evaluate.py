"""Measures against values worked out by hand from trec_eval's definitions."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.conf.settings import ConfigurationError
from ragpool.index.errors import CorpusError
from ragpool.index.evaluate import evaluate, evaluate_search, run_queries
from ragpool.index.judgements import JudgedNames, read_qrels, read_queries


def ranking(*ids: str) -> list[tuple[str, float]]:
    return [(id_, 1.0 - 0.1 * rank) for rank, id_ in enumerate(ids)]


def test_one_query_by_hand() -> None:
    qrels = {"q": {"a": 2, "b": 1, "c": 1, "n": 0}}
    found = evaluate({"q": ranking("x", "b", "n", "a")}, qrels, [1, 3, 5])
    ideal = 2 + 1 / log2(3) + 1 / log2(4)
    assert found == pytest.approx(
        {
            "nDCG@1": 0.0,
            "nDCG@3": (1 / log2(3)) / ideal,
            "nDCG@5": (1 / log2(3) + 2 / log2(5)) / ideal,
            "recall@1": 0.0,
            "recall@3": 1 / 3,
            "recall@5": 2 / 3,
            "MRR@10": 1 / 2,
        }
    )
    assert found["nDCG@5"] == pytest.approx(0.47663, abs=1e-5)


def test_the_mean_is_over_judged_queries_that_were_searched() -> None:
    qrels = {"q": {"a": 1}, "r": {"a": 1}, "never": {"a": 1}, "hopeless": {"a": 0}}
    found = evaluate({"q": ranking("a"), "r": ranking("b", "a"), "other": ranking("a"), "hopeless": ranking("a")}, qrels, [1])
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["MRR@10"] == pytest.approx(1.5 / 3)


def test_equal_scores_are_ordered_by_id_from_the_last() -> None:
    found = evaluate({"q": [("a", 0.5), ("b", 0.5), ("c", 0.5)]}, {"q": {"a": 1}}, [1, 2])
    assert (found["nDCG@1"], found["nDCG@2"], found["MRR@10"]) == (0.0, 0.0, pytest.approx(1 / 3))


def test_the_order_of_a_run_is_that_of_its_scores() -> None:
    assert evaluate({"q": [("a", 0.1), ("b", 0.9)]}, {"q": {"b": 1}}, [1])["nDCG@1"] == 1.0


def test_what_several_passages_found_counts_once_by_the_best_of_them() -> None:
    results = [("a", 0.9), ("b", 0.8), ("a", 0.7), ("b", 0.95), ("c", 0.6)]
    found = evaluate({"q": results}, {"q": {"a": 1, "c": 1}}, [1, 2, 3])
    assert (found["recall@1"], found["recall@2"], found["recall@3"]) == (0.0, 0.5, 1.0)
    assert found["nDCG@3"] == pytest.approx((1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3)))
    assert found["MRR@10"] == 0.5


def test_a_piece_is_judged_by_its_document() -> None:
    named = JudgedNames({"q": {"doc": 1, "doc#7": 1}, "r": {"whole": 1}})
    asked = [
        ("doc#1", {"document": "doc"}),
        ("a#b#12", {"document": "a#b"}),
        ("doc#7", {}),
        ("whole", {}),
        ("doc#x", {"document": "doc"}),
        ("other#1", {"document": "doc"}),
        ("n#1", {"document": 1}),
    ]
    assert [named(*passage) for passage in asked] == ["doc", "a#b", "doc#7", "whole", "doc#x", "other#1", "n#1"]
    assert named.pieces == 2


def test_where_judgements_name_pieces_every_passage_stands_for_itself() -> None:
    qrels = {"q": {"d#5": 1}}
    named = JudgedNames(qrels)
    ranked = [(named(f"d#{number}", {"document": "d"}), 1.0 / number) for number in range(1, 6)]
    assert [id_ for id_, _ in ranked] == ["d#1", "d#2", "d#3", "d#4", "d#5"]
    assert not named.pieces
    found = evaluate_search(lambda queries, top_k: [ranked[:top_k]], {"q": "?"}, qrels, [3])
    assert (found["MRR@10"], found["recall@3"]) == (0.2, 0.0)


def test_reciprocal_ranks_end_at_ten() -> None:
    ids = [f"x{n}" for n in range(10)]
    assert evaluate({"q": ranking(*ids, "a")}, {"q": {"a": 1}}, [100])["MRR@10"] == 0.0


def test_negative_grades_are_not_relevant() -> None:
    found = evaluate({"q": ranking("a", "b")}, {"q": {"a": -1, "b": 1}}, [2])
    assert found["nDCG@2"] == pytest.approx(1 / log2(3))
    assert found["recall@2"] == 1.0


def test_a_run_that_nobody_judged() -> None:
    with pytest.raises(ValueError, match="no query of the run is judged"):
        evaluate({"q": []}, {}, [1])


@given(
    st.lists(st.sampled_from("abcdef"), unique=True), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=1)
)
def test_measures_lie_between_0_and_1_and_grow_with_better_order(ids: Sequence[str], grades: dict[str, int]) -> None:
    best = sorted(ids, key=lambda id_: -grades.get(id_, 0))
    found = evaluate({"q": ranking(*ids)}, {"q": grades}, [1, 3, 6])
    ideal = evaluate({"q": ranking(*best)}, {"q": grades}, [1, 3, 6])
    for name, value in found.items():
        assert 0 <= value <= ideal[name] + 1e-12 <= 1 + 2e-12


def test_queries_are_searched_in_parts_and_in_order() -> None:
    queries = {f"q{n}": f"text {n}" for n in range(600)}
    told: list[tuple[int, int]] = []

    def search(texts: list[str], top_k: int) -> list[list[tuple[str, float]]]:
        assert top_k == 7
        return [[(text, 1.0)] for text in texts]

    run = run_queries(search, queries, 7, lambda done, of: told.append((done, of)))
    assert {id_: results[0][0] for id_, results in run.items()} == queries
    assert told == [(256, 600), (512, 600), (600, 600)]


def test_a_figure_at_k_is_that_of_a_search_for_k() -> None:
    """A search that finds more the further it looks: what it finds at 100 is not told at 10."""

    def search(texts: list[str], top_k: int) -> list[list[tuple[str, float]]]:
        return [[("right" if top_k >= 100 else "wrong", 1.0)] for _ in texts]

    told: list[tuple[int, int]] = []
    found = evaluate_search(search, {"q": "text"}, {"q": {"right": 1}}, [1, 100], lambda done, of: told.append((done, of)))
    assert list(found) == ["nDCG@1", "nDCG@100", "recall@1", "recall@100", "MRR@10"]
    assert found == {"nDCG@1": 0.0, "nDCG@100": 1.0, "recall@1": 0.0, "recall@100": 1.0, "MRR@10": 0.0}
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_qrels_of_beir_and_trec(tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t1\n")
    expected = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    assert read_qrels(path) == expected
    path.write_text("q1\td1\t2\nq1\td2\t0\nq2\td1\t1\n")
    assert read_qrels(path) == expected
    path.write_text("q1 0 d1 2\nq1 0 d2 0\n\nq2 Q0 d1 1\n")
    assert read_qrels(path) == expected
    path.write_text("q1\td1\t2.0\nq1\td2\t0.\nq2\td1\t1.000\n")
    assert read_qrels(path) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("q\td\t1\nq\td\n", "line 2: it has 2 columns"),
        ("q\td\t1\nq\td\tx\n", "line 2: its grade 'x' is not a whole number"),
        ("q\td\t0.5\nq\te\t1\n", "line 1: its grade '0.5' is not a whole number"),
        ("q\td\t1x\nq\te\t1\n", "line 1: its grade '1x' is not a whole number"),
        ("q\td\t\nq\te\t1\n", "line 1: its grade '' is not a whole number"),
        ("query\tdoc\tscore\n", "holds no judgement"),
    ],
)
def test_qrels_that_are_wrong(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=sentence):
        read_qrels(path)


def test_queries(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"_id": "a", "text": "one"}\n\n{"id": 2, "query": "two", "metadata": {}}\n')
    assert read_queries(path) == {"a": "one", "2": "two"}
    tsv = tmp_path / "queries.tsv"
    tsv.write_text("a\tone\n2\ttwo\n")
    assert read_queries(tsv) == {"a": "one", "2": "two"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"_id": "a", "text": "one"}\n{\n', "line 2: it is not JSON"),
        ('{"_id": "a"}\n', "line 1: it has no _id or id, or no text or query"),
        ('{"_id": "a", "text": "one"}\n{"_id": "a", "text": "two"}\n', "line 2: its id 'a' is taken"),
        ("", "holds no query"),
    ],
)
def test_queries_that_are_wrong(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=sentence):
        read_queries(path)
    with pytest.raises(ConfigurationError, match="there is no file"):
        read_queries(tmp_path / "nothing")


def test_an_error_in_a_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text("{\n")
    with pytest.raises(CorpusError) as caught:
        read_queries(path)
    assert (caught.value.file, caught.value.line) == (str(path), 1)
