"""What is inside requests and replies: built, read back, and wrong in every way."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ragpool.wire import bodies, codec, messages
from ragpool.wire.errors import BadRequest, RagpoolError, TooLarge
from ragpool.wire.messages import EMBED, FETCH, SEARCH, SEARCH_VECTOR, Limits, Request

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1, max_size=8)


def request(op: str, items: int, body: bytes) -> Request:
    return Request(bytes(16), op, items, 5, body=body)


@given(TEXTS)
def test_queries_come_back(texts: list[str]) -> None:
    work = bodies.decode_work(request(SEARCH, len(texts), bodies.search_body(texts)), Limits())
    assert work.texts == tuple(texts)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=12).filter(lambda v: len(v) % 3 == 0))
def test_vectors_come_back(values: list[float]) -> None:
    rows = struct.pack(f"<{len(values)}f", *values)
    work = bodies.decode_work(request(SEARCH_VECTOR, len(values) // 3, bodies.vectors_body(rows, 3)), Limits())
    assert (work.vectors, work.dim) == (rows, 3)


@given(st.lists(st.lists(st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.text(max_size=9)), max_size=20), max_size=20))  # fmt: skip  # noqa: E501
def test_results_are_spliced_and_read_back(results: list[list[tuple[float, str]]]) -> None:
    def passage(text: str) -> dict[str, object]:
        return {"id": "p", "title": "", "text": text, "metadata": {}}

    raw = [bodies.RawHits([score for score, _ in hits], [msgpack.packb(passage(text)) for _, text in hits]) for hits in results]
    decoded = bodies.decode_results(bodies.results_body(raw))
    assert [(scores, [p["text"] for p in passages]) for scores, passages in decoded] == [
        ([score for score, _ in hits], [text for _, text in hits]) for hits in results
    ]


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_headers_of_spliced_parts_are_messagepack(count: int) -> None:
    assert codec.array_header(count) == msgpack.Packer().pack_array_header(count)
    assert codec.map_header(count) == msgpack.Packer().pack_map_header(count)


@settings(max_examples=400)
@given(st.sampled_from([SEARCH, SEARCH_VECTOR, EMBED, FETCH, "other"]), st.binary(max_size=80), st.integers(-1, 5))
def test_random_bodies_raise_only_our_errors(op: str, body: bytes, items: int) -> None:
    for read in (
        lambda: bodies.decode_work(request(op, items, body), Limits()),
        lambda: bodies.decode_results(body),
        lambda: bodies.decode_passages(body),
        lambda: bodies.decode_vectors(body),
        lambda: bodies.decode_map(body),
    ):
        try:
            read()
        except RagpoolError:
            pass


@given(st.recursive(st.none() | st.integers(0, 9) | st.text(max_size=4) | st.binary(max_size=4), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["queries", "texts", "ids", "vectors", "dim", "kind", "results", "scores", "passages", "id", "text"]), x, max_size=3), max_leaves=12))  # fmt: skip  # noqa: E501
def test_well_formed_nonsense_raises_only_our_errors(value: object) -> None:
    body = msgpack.packb(value)
    for op in (SEARCH, SEARCH_VECTOR, EMBED, FETCH):
        try:
            bodies.decode_work(request(op, 1, body), Limits())
        except RagpoolError:
            pass
    for read in (bodies.decode_results, bodies.decode_passages, bodies.decode_vectors, bodies.decode_map):
        try:
            read(body)
        except RagpoolError:
            pass


@pytest.mark.parametrize(
    ("op", "items", "body", "error", "words"),
    [
        (SEARCH, 2, {"queries": ["a"]}, BadRequest, "2 items, the body holds 1"),
        (SEARCH, 0, {"queries": []}, BadRequest, "at least one"),
        (SEARCH, 2, {"queries": ["a", 3]}, BadRequest, "queries[1]"),
        (SEARCH, 2, {"queries": ["a", "  "]}, BadRequest, "queries[1] is empty"),
        (SEARCH, 1, {"queries": ["x" * 40_000]}, TooLarge, "queries[0] has 40000 bytes"),
        (SEARCH, 1, {"queries": ["é" * 20_000]}, TooLarge, "queries[0] has 40000 bytes"),
        (EMBED, 1, {"texts": ["a"], "kind": "song"}, BadRequest, "song"),
        (SEARCH_VECTOR, 1, {"vectors": bytes(10), "dim": 3}, BadRequest, "whole number"),
        (SEARCH_VECTOR, 1, {"vectors": bytes(12), "dim": 0}, BadRequest, "whole number"),
        (FETCH, 1, {"queries": ["a"]}, BadRequest, "ids is not a list"),
        ("dance", 1, {}, BadRequest, "dance"),
    ],
)
def test_what_is_wrong_is_named(op: str, items: int, body: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        bodies.decode_work(request(op, items, msgpack.packb(body)), Limits())
    assert words in str(caught.value)


def test_a_lone_surrogate_is_named_before_it_is_sent() -> None:
    with pytest.raises(BadRequest, match=r"queries\[1\]"):
        bodies.search_body(["fine", "\ud800"])


def test_the_table_of_the_module_lists_every_operation() -> None:
    for op in messages.WORKER_OPS:
        assert f"| {op} " in (bodies.__doc__ or "")
