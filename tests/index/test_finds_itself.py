"""`verify` has passages find themselves: no healthy index is called damaged, and a part that holds other rows is found out."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from ragpool.index import build as builder
from ragpool.index import encoder as encoders
from ragpool.index import faiss_part
from ragpool.index.build import BuildOptions, build_index
from ragpool.index.checks import verify_search
from ragpool.index.encoder import Encoded, Kind
from ragpool.index.errors import IndexDamaged
from ragpool.index.faiss_part import make_part
from ragpool.index.index_types import plan_index
from ragpool.index.manifest import FLAT
from ragpool.index.models import Prefixes
from ragpool.index.own_rows import check_own_rows, is_own
from ragpool.index.store import Index, open_index
from ragpool.index.vectors import PART, REFINE

pytest.importorskip("faiss")

Floats = NDArray[np.float32]
DIM = 32
LONG = os.environ.get("RAGPOOL_TEST_LONG") == "1"
CODES = ("PCA24,Flat", "HNSW16,Flat", "IVF16,PQ8x4fs", *(("IVF16,PQ8",) if LONG else ()))
KEPT = ("hnsw", "compact")


class Table:
    """An encoder whose texts are numbers of the rows of a table."""

    model, fingerprint, dim, max_length = "table", "cd" * 32, DIM, 64
    settings: ClassVar[dict[str, str]] = {}
    device, dtype, backend, normalize = "cpu", "float32", "double", True
    prefixes = Prefixes("", "")

    def __init__(self, rows: Floats) -> None:
        self._rows = rows

    def encode(self, texts: list[str], kind: Kind = "query") -> Encoded:
        return Encoded(self._rows[[int(text) for text in texts]], [1] * len(texts), [False] * len(texts))


def scattered(count: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((20, DIM))[rng.integers(0, 20, count)] + 0.5 * rng.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Index]:
    """The index of a table, opened; `verify_search` encodes by the table too."""

    def built(rows: Floats, type_: str, **options: object) -> Index:
        corpus = tmp_path / "corpus.jsonl"
        corpus.write_text("".join(json.dumps({"_id": f"id{n}", "text": str(n)}) + "\n" for n in range(len(rows))))
        monkeypatch.setattr(faiss_part, "_MEASURED_S", 0.0)
        monkeypatch.setattr(builder, "_encoder", lambda options: Table(rows))
        monkeypatch.setattr(encoders, "load_index_encoder", lambda *args, **kwargs: Table(rows))
        wish = BuildOptions(device="cpu", type=type_, **options)  # type: ignore[arg-type]
        return open_index(build_index([corpus], tmp_path / "out", wish).path)

    return built


@pytest.mark.parametrize("type_", [FLAT, *KEPT, *CODES])
def test_more_equal_passages_than_are_looked_at_are_no_damage(build: Callable[..., Index], type_: str) -> None:
    rows = scattered(1_200)
    rows[300:900] = rows[300]
    assert "'id600' finds itself" in verify_search(build(rows, type_)).found


@pytest.mark.parametrize("type_", [FLAT, *KEPT])
def test_it_is_searched_for_on_cpu_wherever_it_is_encoded(build: Callable[..., Index], type_: str) -> None:
    """No device has that number: what looked for the index there would fail."""
    assert "finds itself" in verify_search(build(scattered(600), type_), device="cuda:99").found


@pytest.mark.parametrize("size", [1, 4])
def test_codes_that_do_not_tell_neighbours_apart_are_no_damage(build: Callable[..., Index], size: int) -> None:
    verify_search(build(scattered(4_000), "compact", bytes_per_vector=size, refine=False))


@pytest.mark.parametrize("type_", [FLAT, *KEPT])
def test_rows_of_any_length_are_no_damage(build: Callable[..., Index], type_: str) -> None:
    rows = scattered(600) * np.random.default_rng(3).uniform(0.2, 5.0, (600, 1)).astype(np.float32)
    verify_search(build(rows, type_, normalize=False))


FEW = [*((type_, count) for type_ in (FLAT, *KEPT) for count in (1, 17)), ("IVF4,SQ8", 17)]


@pytest.mark.parametrize(("type_", "count"), FEW)
def test_an_index_of_few_rows(build: Callable[..., Index], type_: str, count: int) -> None:
    assert "finds itself" in verify_search(build(scattered(count), type_)).found


@pytest.mark.parametrize("type_", [*KEPT, *CODES, "compact --no-refine"])
def test_a_part_with_the_rows_of_others_is_found_out(build: Callable[..., Index], type_: str, tmp_path: Path) -> None:
    """A faiss file of the same rows in another order, and one of other rows: both are whole, and neither is this index's."""
    rows, refine = scattered(1_200), not type_.endswith("--no-refine")
    index = build(rows, type_.split()[0], refine=refine)
    verify_search(index)
    plan = plan_index(type_.split()[0], 32, refine, len(rows), DIM, 1 << 40)
    for other in (np.roll(rows, 7, axis=0), scattered(1_200, seed=5)):
        make_part(other, plan, 1, 1, tmp_path)
        index.part.part = np.fromfile(tmp_path / PART, np.uint8)
        with pytest.raises(IndexDamaged, match="does not find its passage"):
            verify_search(index)


def test_float16_rows_of_others_are_found_out(build: Callable[..., Index]) -> None:
    index = build(scattered(1_200), "compact")
    assert REFINE in index.manifest.files
    assert index.part.refine is not None
    index.part.refine = np.roll(index.part.refine, 1, axis=0)
    with pytest.raises(IndexDamaged, match="does not find its passage 'id600'"):
        verify_search(index)


def test_one_flat_row_of_another_passage_is_found_out(build: Callable[..., Index]) -> None:
    index = build(scattered(1_200), FLAT)
    full = np.array(index.vectors.full)
    full[600] = full[3]
    index.vectors.full = full
    with pytest.raises(IndexDamaged, match="does not find its passage 'id600'"):
        verify_search(index)


# ---- before a worker serves ------------------------------------------------------------------------------------------


class Moved(Table):
    """Another table's encoder: each vector is the row, moved by so much at a right angle and of length 1 again."""

    def __init__(self, rows: Floats, by: float, dtype: str) -> None:
        across = np.random.default_rng(5).standard_normal(rows.shape)
        across -= rows * np.einsum("nd,nd->n", rows, across)[:, None]
        moved = rows + by * across / np.linalg.norm(across, axis=1, keepdims=True)
        super().__init__((moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32))
        self.dtype = dtype


@pytest.mark.parametrize("type_", [FLAT, *KEPT])
@pytest.mark.parametrize("row", [0, 536])
def test_an_index_of_two_models_is_not_served(build: Callable[..., Index], type_: str, row: int) -> None:
    """As one whose build went on with another model: shards from one end on are of another space."""
    rows = scattered(600)
    index = build(rows, type_)
    check_own_rows(index, Table(rows))
    rows = rows.copy()
    rows[row] = rows[300]
    with pytest.raises(IndexDamaged, match=f"holds another row of its passage 'id{row}' than the model table gives here"):
        check_own_rows(index, Table(rows))


@pytest.mark.parametrize(
    ("dtype", "by", "served"),
    [("float32", 0.15, True), ("float32", 0.3, False), ("bfloat16", 0.1, True), ("int8", 0.4, True), ("int8", 1.0, False)],
)
def test_an_encoder_of_another_dtype_may_be_as_far_off_as_that_lets_it(
    build: Callable[..., Index], dtype: str, by: float, served: bool
) -> None:
    rows = scattered(40)
    index = build(rows, FLAT)
    with contextlib.nullcontext() if served else pytest.raises(IndexDamaged, match="holds another row"):
        check_own_rows(index, Moved(rows, by, dtype))


def test_rows_that_are_not_of_length_one_go_by_angle_and_length() -> None:
    """Their product with themselves says little: a vector half as long again, at an angle, has the same."""
    row = 7.0 * scattered(1)[0]
    across = np.roll(row, 1) - row * float(np.roll(row, 1) @ row) / float(row @ row)
    assert is_own(row * 1.015, row, 0.0)
    assert not is_own(row * 1.03, row, 0.0)
    assert is_own(row * 1.03, row, 0.1)
    assert not is_own(row + across, row, 0.1)
    assert is_own(np.zeros(DIM), np.zeros(DIM), 0.0)
    assert not is_own(row, np.zeros(DIM), 0.0)


def test_a_short_passage_near_either_end_is_looked_at_and_one_at_a_time(build: Callable[..., Index]) -> None:
    rows = scattered(600)
    index, encoded = build(rows, FLAT), list[list[str]]()

    class Noted(Table):
        def encode(self, texts: list[str], kind: Kind = "query") -> Encoded:
            encoded.append(texts)
            return super().encode(texts, kind)

    check_own_rows(index, Noted(rows))
    assert encoded == [["0"], ["536"]]


def test_nothing_is_asked_of_codes(build: Callable[..., Index]) -> None:
    rows = scattered(600)
    check_own_rows(build(rows, "PCA24,Flat"), Table(-rows))
