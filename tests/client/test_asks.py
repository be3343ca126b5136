"""Wrong arguments are one sentence, before anything is sent; right ones become chunks of a bounded size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.client import asks
from ragpool.client.chunks import CHUNK_HITS, CHUNK_ITEMS, Chunk, plan
from ragpool.wire.errors import BadRequest


def search(query: Any, top_k: Any = None, priority: Any = 0, collection: Any = "default") -> Any:
    return asks.search(query, top_k, priority, collection)


def vector(value: Any) -> Any:
    return asks.search_vector(value, None, 0, "default")


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: search(3), "a query is a str, not int"),
    (lambda: search(None), "a query is a str, not NoneType"),
    (lambda: search(""), "the query is empty"),
    (lambda: search(" \n\t"), "the query is empty"),
    (lambda: search("\ud800"), "not text that UTF-8 can carry"),
    (lambda: search("q", 0), "top_k is an int of at least 1, not 0"),
    (lambda: search("q", -3), "at least 1, not -3"),
    (lambda: search("q", 2.0), "top_k is an int"),
    (lambda: search("q", True), "top_k is an int"),
    (lambda: search("q", np.array([1, 2])), "top_k is an int"),
    (lambda: search("q", None, 1.5), "priority is an int"),
    (lambda: search("q", None, 101), "priority is an int from -100 to 100"),
    (lambda: search("q", None, 0, 7), "a collection is a str"),
    (lambda: search("q", None, 0, ""), "the collection is empty"),
    (lambda: search("q", None, 0, "x" * 256), "at most 255 bytes"),
    (lambda: asks.search_many("one", None, 0, "default"), "queries is a list of str, not str"),
    (lambda: asks.search_many(5, None, 0, "default"), "queries is a list of str, not int"),  # type: ignore[arg-type]
    (lambda: asks.search_many(["a", 5], None, 0, "default"), r"queries\[1\] is a str, not int"),  # type: ignore[list-item]
    (lambda: asks.search_many(["a"] * 40 + [" "], None, 0, "default"), r"queries\[40\] is empty"),
    (lambda: asks.embed(["a", "\udfff"], "query", 0, "default"), r"texts\[1\] is not text"),
    (lambda: asks.embed(["a"], "question", 0, "default"), 'kind is "query" or "passage"'),
    (lambda: asks.fetch(["a", ""], 0, "default"), r"ids\[1\] is empty"),
    (lambda: vector([1.0, 2.0]), "a vector is a numpy array of float32, not list"),
    (lambda: vector(np.zeros(4)), r"float32 of shape \(dim,\), not float64"),
    (lambda: vector(np.zeros((1, 4), np.float32)), r"of shape \(1, 4\)"),
    (lambda: vector(np.zeros(0, np.float32)), r"of shape \(0,\)"),
    (lambda: vector(np.array([1, math.nan], np.float32)), "not finite"),
    (lambda: vector(np.array([1, math.inf], np.float32)), "not finite"),
    (lambda: asks.seconds(0, "timeout"), "timeout is a positive, finite number of seconds, not 0"),
    (lambda: asks.seconds(-1, "timeout"), "not -1"),
    (lambda: asks.seconds(math.inf, "timeout"), "not inf"),
    (lambda: asks.seconds(math.nan, "timeout"), "not nan"),
    (lambda: asks.seconds("5", "timeout"), "not '5'"),
    (lambda: asks.options("localhost:5555", "", 1, 1), "'localhost:5555' is not an address like tcp://host:port"),
    (lambda: asks.options("tcp://host", "", 1, 1), "is not an address"),
    (lambda: asks.options("http://host:80", "", 1, 1), "is not an address"),
    (lambda: asks.options("", "", 1, 1), "is not an address"),
]


@pytest.mark.parametrize(("ask", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_a_wrong_argument_is_a_bad_request(ask: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        ask()


def test_ints_of_numpy_are_ints() -> None:
    (chunk,) = search("q", np.int64(7)).chunks
    assert chunk.top_k == 7
    assert type(chunk.top_k) is int


@given(st.integers(0, 500), st.integers(0, 2000))
def test_chunks_hold_every_item_once_in_order(count: int, top_k: int) -> None:
    texts = [str(n) for n in range(count)]
    chunks = plan(Chunk("search", texts, top_k=top_k))
    assert [text for chunk in chunks for text in chunk.items] == texts
    assert all(list(chunk.items) == texts[chunk.start : chunk.start + chunk.count] for chunk in chunks)
    sizes = {chunk.count for chunk in chunks}
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert all(size <= CHUNK_ITEMS and (size == 1 or size * top_k <= CHUNK_HITS) for size in sizes)


def test_the_usual_step_of_a_rollout_is_80_chunks() -> None:
    assert len(plan(Chunk("search", ["q"] * 2560, top_k=5))) == 80


@given(st.integers(2, 100), st.integers(0, 1000))
def test_halves_are_the_whole(count: int, start: int) -> None:
    whole = Chunk("search", [str(n) for n in range(count)], start=start)
    left, right = whole.halves()
    assert [*left.items, *right.items] == whole.items
    assert (left.start, right.start) == (start, start + left.count)
    assert left.count
    assert right.count
