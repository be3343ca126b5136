"""Bodies come back as they were built, and hostile ones are errors of the one tree and nothing else."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ragpool.wire import bodies, codec, messages
from ragpool.wire.errors import BadRequest, RagpoolError, TooLarge
from ragpool.wire.messages import Limits, Request

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SOLID = TEXT.filter(lambda text: text.strip() != "")
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
METADATA = st.dictionaries(TEXT, st.integers(-5, 5) | TEXT | st.lists(TEXT, max_size=3), max_size=3)
PASSAGE = st.fixed_dictionaries({"id": TEXT, "title": TEXT, "text": TEXT, "metadata": METADATA})

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXT | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["queries", "vectors", "texts", "ids", "kind", "dim", "results", "scores", "passages", "id", "text"])
NEARLY = st.recursive(
    JUNK,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.binary(max_size=80) | NEARLY.map(msgpack.packb)


def request(op: str, body: bytes, items: int = 1) -> Request:
    return Request(bytes(16), op, items, body=body)


def work(op: str, body: bytes, items: int = 1, limits: Limits | None = None) -> bodies.Work:
    return bodies.decode_work(request(op, body, items), limits or Limits())


# ---- round trips ----------------------------------------------------------------------------------------------------


@given(st.lists(SOLID, min_size=1, max_size=5))
def test_texts_come_back(texts: list[str]) -> None:
    count = len(texts)
    assert work(messages.SEARCH, bodies.search_body(texts), count).texts == tuple(texts)
    assert work(messages.FETCH, bodies.fetch_body(texts), count).ids == tuple(texts)
    embedded = work(messages.EMBED, bodies.embed_body(texts, "passage"), count)
    assert (embedded.texts, embedded.kind) == (tuple(texts), "passage")


@given(st.integers(1, 4), st.integers(1, 6))
def test_vectors_come_back(rows: int, dim: int) -> None:
    data = struct.pack(f"<{rows * dim}f", *range(rows * dim))
    found = work(messages.SEARCH_VECTOR, bodies.vectors_body(data, dim), rows)
    assert (found.vectors, found.dim) == (data, dim)
    assert bodies.decode_vectors(bodies.vectors_body(data, dim)) == (data, dim)


@given(st.lists(st.lists(st.tuples(FLOAT32, PASSAGE), max_size=20), max_size=20))
def test_results_come_back(results: list[list[tuple[float, dict[str, Any]]]]) -> None:
    raw = [bodies.RawHits([score for score, _ in row], [codec.pack(passage) for _, passage in row]) for row in results]
    expected = [([score for score, _ in row], [passage for _, passage in row]) for row in results]
    assert bodies.decode_results(bodies.results_body(raw)) == expected


@given(st.lists(PASSAGE, max_size=20))
def test_passages_come_back(passages: list[dict[str, Any]]) -> None:
    assert bodies.decode_passages(bodies.passages_body([codec.pack(passage) for passage in passages])) == passages


# ---- hostile bodies -------------------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(BODIES, st.sampled_from([*sorted(messages.WORKER_OPS), "status", "nonsense"]), st.integers(-2, 5))
def test_no_request_body_raises_anything_else(body: bytes, op: str, items: int) -> None:
    try:
        found = work(op, body, items)
    except RagpoolError:
        return
    assert sum(bool(part) for part in (found.texts, found.vectors, found.ids)) == 1


@settings(max_examples=400)
@given(BODIES)
def test_no_reply_body_raises_anything_else(body: bytes) -> None:
    for decode in (bodies.decode_results, bodies.decode_passages, bodies.decode_vectors, bodies.decode_map):
        try:
            decode(body)
        except RagpoolError:
            pass


@pytest.mark.parametrize(
    ("op", "fields", "items", "sentence"),
    [
        ("search", {}, 1, "queries is not a list with at least one text"),
        ("search", {"queries": []}, 0, "queries is not a list with at least one text"),
        ("search", {"queries": ["a", 5]}, 2, r"queries\[1\] is not text"),
        ("search", {"queries": ["a", " \n"]}, 2, r"queries\[1\] is empty"),
        ("search", {"queries": ["a", "b"]}, 3, "the header says 3 items, the body holds 2"),
        ("embed", {"texts": ["a"], "kind": "question"}, 1, "kind is"),
        ("embed", {"texts": ["a"], "kind": ["query"]}, 1, "kind is"),
        ("search_vector", {"vectors": b"1234567", "dim": 1}, 1, "whole number of float32 rows"),
        ("search_vector", {"vectors": b"12345678", "dim": True}, 2, "whole number of float32 rows"),
        ("search_vector", {"vectors": b"12345678", "dim": 0}, 2, "whole number of float32 rows"),
        ("search_vector", {"vectors": b"", "dim": 4}, 0, "whole number of float32 rows"),
        ("fetch", {"ids": "abc"}, 3, "ids is not a list"),
        ("unheard", {}, 1, "unknown operation 'unheard'"),
    ],
)
def test_what_is_wrong_is_said(op: str, fields: dict[str, Any], items: int, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        work(op, msgpack.packb(fields), items)


def test_a_text_over_the_limit_names_its_position() -> None:
    with pytest.raises(TooLarge, match=r"queries\[1\] has 12 bytes, the limit is 11"):
        work("search", bodies.search_body(["a" * 11, "ü" * 6]), 2, Limits(query_max_bytes=11))


def test_a_text_that_cannot_travel_names_its_position() -> None:
    with pytest.raises(BadRequest, match=r"queries\[2\] is not text that UTF-8 can carry"):
        bodies.search_body(["a", "b", "\ud800"])


def test_a_body_that_nests_too_deep_is_refused() -> None:
    deep: object = 1
    for _ in range(codec.DEPTH_MAX):
        deep = [deep]
    body = msgpack.packb({"queries": ["a"], "unknown": deep})
    with pytest.raises(BadRequest, match="deeper than 16"):
        bodies.decode_work(Request(bytes(16), messages.SEARCH, 1, 5, body=body), Limits())
