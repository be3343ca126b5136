"""The passage store gives back what was written, by row and by id, and knows every id that was there before."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.index import passage_writer as writing
from ragpool.index import passages as reading
from ragpool.index.passage import METADATA_DEPTH_MAX, BadRow, Passage, encoded_text, pack_passage
from ragpool.index.passage_writer import PassageWriter
from ragpool.index.passages import IDS, OFFSETS, ROWS, PassageStore
from ragpool.wire import codec

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
passages = st.builds(Passage, st.text(min_size=1), st.text(), st.text(), st.dictionaries(st.text(), plain, max_size=3))


def stored(chunks: list[list[Passage]]) -> tuple[PassageStore, list[list[int]]]:
    """The store of `chunks`, and which positions of each were refused."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(PassageWriter(Path(folder))) as writer:
            taken = [writer.append([p.id for p in chunk], [pack_passage(p) for p in chunk]) for chunk in chunks]
            sha256 = writer.finish()
        assert sha256 == hashlib.sha256(Path(folder, ROWS).read_bytes()).hexdigest()
        parts = (np.fromfile(Path(folder) / role, dtype=np.uint8) for role in (ROWS, OFFSETS, IDS))
        return PassageStore(*parts), taken


def expected(chunks: list[list[Passage]]) -> tuple[list[Passage], list[list[int]]]:
    kept: dict[str, Passage] = {}
    taken = [
        [position for position, passage in enumerate(chunk) if kept.setdefault(passage.id, passage) is not passage]
        for chunk in chunks
    ]
    return list(kept.values()), taken


@given(st.lists(st.lists(passages, max_size=5), max_size=5))
def test_what_was_written_is_read_back(chunks: list[list[Passage]]) -> None:
    kept, refused = expected(chunks)
    store, taken = stored(chunks)
    assert taken == refused
    assert store.count == len(kept)
    for row, passage in enumerate(kept):
        assert store.raw(row) == pack_passage(passage)
        assert store.get(row) == {"id": passage.id, "title": passage.title, "text": passage.text, "metadata": passage.metadata}
        assert store.find(passage.id) == row
    assert store.raw_many(range(store.count)) == [pack_passage(passage) for passage in kept]


def test_ids_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def coarse(ids: list[str]) -> np.ndarray:
        return np.array([len(id_) for id_ in ids], dtype="<u8")

    monkeypatch.setattr(writing, "hash_ids", coarse)
    monkeypatch.setattr(reading, "hash_ids", coarse)
    store, taken = stored([[Passage(c, "", "t") for c in "abca"], [Passage(c, "", "t") for c in "dbe"]])
    assert taken == [[3], [1]]
    assert [store.find(c) for c in "abcdef"] == [0, 1, 2, 3, 4, None]


def test_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [[Passage(f"{n}", "", "t") for n in range(start, start + 100)] for start in range(0, 5_000, 90)]
    store, taken = stored(chunks)
    assert [len(refused) for refused in taken] == [0] + [10] * (len(chunks) - 1)
    assert all(store.find(f"{n}") == n for n in range(store.count))
    assert store.find("nothing") is None
    assert store.find("\ud800") is None


def test_a_row_that_is_not_there() -> None:
    store, _ = stored([[Passage("a", "", "t")]])
    for row in (-1, 1):
        with pytest.raises(IndexError):
            store.raw(row)


def nested(depth: int) -> dict[str, object]:
    value: object = 1
    for _ in range(depth - 1):
        value = [value]
    return {"deep": value}


def test_metadata_is_nested_only_so_deep() -> None:
    assert codec.unpack(pack_passage(Passage("a", "", "t", nested(METADATA_DEPTH_MAX))))
    with pytest.raises(BadRow, match="nested deeper than 16"):
        pack_passage(Passage("a", "", "t", nested(METADATA_DEPTH_MAX + 1)))


@pytest.mark.parametrize(
    "passage", [Passage("a", "", "\ud800"), Passage("a", "", "t", {"n": 2**64}), Passage("a", "", "t", {"o": object()})]
)
def test_what_cannot_travel_is_refused(passage: Passage) -> None:
    with pytest.raises(BadRow, match="cannot be stored"):
        pack_passage(passage)


def test_a_passage_that_no_frame_could_carry_is_refused() -> None:
    with pytest.raises(BadRow, match="at most 4194304"):
        pack_passage(Passage("a", "", "x" * 5_000_000))


def test_the_encoded_text() -> None:
    assert encoded_text("Title", "text ") == "Title text"
    assert encoded_text("", "text") == "text"
    assert encoded_text("Title", "text", "text") == "text"
