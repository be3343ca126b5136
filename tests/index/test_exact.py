"""The engines against a float64 oracle, never against themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ragpool.conf.settings import ConfigurationError
from ragpool.index.build import Built
from ragpool.index.engine import load_engine
from ragpool.index.errors import DeviceUnavailable
from ragpool.index.exact import ExactEngine
from ragpool.index.flat_faiss import FaissEngine, FaissProduct, HalfFaissProduct, filled
from ragpool.index.manifest import HalfNorms
from ragpool.index.product import Product, VectorProduct
from ragpool.index.selection import chosen_products
from ragpool.index.store import open_index
from ragpool.index.vectors import from_bfloat16, to_bfloat16

Floats = NDArray[np.float32]
KINDS = ("half", "full", "vector", "faiss", "half faiss", "shards")


def norms_of(rows: Floats) -> HalfNorms:
    exact, half = rows.astype(np.float64), from_bfloat16(to_bfloat16(rows)).astype(np.float64)
    half_max, error_max, full_max = (float(np.linalg.norm(x, axis=1).max()) for x in (half, exact - half, exact))
    return HalfNorms("bfloat16", half_max, error_max, full_max)


def half_product(rows: Floats) -> Product:
    return Product(torch.from_numpy(to_bfloat16(rows).view(np.int16)).view(torch.bfloat16), norms_of(rows))


def engine_of(rows: Floats, kind: str = "half") -> ExactEngine:
    norms, full = norms_of(rows), torch.from_numpy(rows)
    if kind in ("faiss", "half faiss", "shards"):
        return FaissEngine(full, faiss_product(full, norms, kind), norms)
    product = half_product(rows) if kind == "half" else Product(full, norms)
    return ExactEngine(full, product, norms, VectorProduct(full, norms) if kind == "vector" else None)


def faiss_product(full: torch.Tensor, norms: HalfNorms, kind: str) -> Product:
    """As on a CUDA device, but that faiss keeps its float16 rows on the CPU."""
    faiss = pytest.importorskip("faiss")
    if kind == "faiss":
        return FaissProduct(full, norms)
    count = 2 if kind == "shards" else 1
    codes = (faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    parts = [faiss.IndexScalarQuantizer(full.shape[1], *codes) for _ in range(count)]
    return HalfFaissProduct(filled(parts, full), full, norms, torch.device("cpu"))


def unit(rows: NDArray[np.float64]) -> Floats:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def check(rows: Floats, queries: Floats, k: int, kind: str = "half") -> ExactEngine:
    """Searches and compares with the oracle: the same scores in the same order, rows that have them, ties by row number."""
    engine = engine_of(rows, kind)
    scores, found = engine.search(queries, k)
    k = min(k, len(rows))
    assert scores.shape == found.shape == (len(queries), k)
    assert (scores.dtype, found.dtype) == (np.float32, np.int64)
    truth = queries.astype(np.float64) @ rows.astype(np.float64).T
    near = (
        1e-6
        * np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
        * np.linalg.norm(rows.astype(np.float64), axis=1).max()
    )
    best = -np.sort(-truth, axis=1)[:, :k]
    own = np.take_along_axis(truth, found, axis=1)
    assert (np.abs(own - best) <= near).all()
    assert (np.abs(scores - own) <= near).all()
    for query in range(len(queries)):
        assert len(set(found[query].tolist())) == k
        order = list(zip((-scores[query]).tolist(), found[query].tolist(), strict=True))
        assert order == sorted(order)
    return engine


def cloud(rng: np.random.Generator, shape: str, count: int, dim: int) -> Floats:
    if shape == "random":
        return unit(rng.standard_normal((count, dim)))
    centres = unit(rng.standard_normal((7, dim))).astype(np.float64)
    if shape == "duplicates":
        return centres[rng.integers(0, 7, count)].astype(np.float32)
    return unit(centres[rng.integers(0, 7, count)] + 2e-3 * rng.standard_normal((count, dim)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [384, 768])
@pytest.mark.parametrize("shape", ["random", "clustered", "duplicates"])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_it_equals_the_oracle(kind: str, dim: int, shape: str, k: int) -> None:
    rng = np.random.default_rng(1)
    rows = cloud(rng, shape, 3_000, dim)
    queries = np.concatenate([rows[:3], unit(rng.standard_normal((4, dim)))])
    check(rows, queries, k, kind)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 300),
    dim=st.integers(1, 40),
    k=st.integers(1, 320),
    asked=st.integers(1, 9),
    scale=st.sampled_from([1e-12, 1.0, 1e9]),
    kind=st.sampled_from(KINDS),
    shape=st.sampled_from(["random", "clustered", "duplicates"]),
)
def test_any_shape_equals_the_oracle(
    seed: int, count: int, dim: int, k: int, asked: int, scale: float, kind: str, shape: str
) -> None:
    rng = np.random.default_rng(seed)
    rows = cloud(rng, shape, count, dim) * rng.uniform(0.5, 3.0, (count, 1)).astype(np.float32)
    queries = (cloud(rng, "random", asked, dim) * scale).astype(np.float32)
    check(rows, queries, k, kind)


def test_equal_rows_come_in_their_order() -> None:
    rng = np.random.default_rng(2)
    rows = np.repeat(cloud(rng, "random", 40, 48), 50, axis=0)
    rng.shuffle(rows)
    queries = rows[:5]
    _, found = engine_of(rows).search(queries, 60)
    for query, order in zip(queries, found.tolist(), strict=True):
        same = np.flatnonzero((rows == query).all(axis=1)).tolist()
        assert order[: len(same)] == same


def test_random_rows_are_certified_at_once() -> None:
    rng = np.random.default_rng(3)
    rows = cloud(rng, "random", 5_000, 384)
    engine = check(rows, unit(rows[:20] + 0.02 * rng.standard_normal((20, 384))), 1)
    assert (engine.certified, engine.rescored, engine.scanned) == (20, 0, 0)


def test_near_duplicates_beyond_the_candidates_are_all_scored() -> None:
    rng = np.random.default_rng(4)
    centre = rng.standard_normal(384)
    rows = unit(centre + 1e-3 * rng.standard_normal((2_000, 384)))
    engine = check(rows, unit(centre[None]), 10)
    assert (engine.certified, engine.rescored, engine.scanned) == (0, 1, 0)


def test_more_near_duplicates_than_are_worth_scoring_are_scanned_in_float32() -> None:
    rng = np.random.default_rng(5)
    centre = rng.standard_normal(64)
    rows = unit(centre + 1e-4 * rng.standard_normal((6_000, 64)))
    engine = check(rows, unit(centre[None]), 10)
    assert (engine.certified, engine.rescored, engine.scanned) == (0, 0, 1)


def test_a_score_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(6)
    rows = cloud(rng, "clustered", 2_000, 384)
    queries = unit(rng.standard_normal((33, 384)))
    engine = engine_of(rows)
    together = engine.search(queries, 20)
    for position in range(33):
        alone = engine.search(queries[position : position + 1], 20)
        assert np.array_equal(alone[0][0], together[0][position])
        assert np.array_equal(alone[1][0], together[1][position])


def test_blocks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragpool.index.exact.BLOCK_ROWS_MIN", 50)
    monkeypatch.setattr("ragpool.index.exact.PRODUCTS_MAX", 500)
    monkeypatch.setattr("ragpool.index.scoring.SCORED_VALUES_MAX_CPU", 2_000)
    monkeypatch.setattr("ragpool.index.exact.AGAIN_MAX", 3)
    rng = np.random.default_rng(7)
    rows = cloud(rng, "clustered", 1_111, 48)
    for k in (1, 7, 300):
        check(rows, unit(rng.standard_normal((13, 48))), k)


def test_the_query_that_is_zero() -> None:
    rows = cloud(np.random.default_rng(8), "random", 200, 16)
    scores, found = engine_of(rows).search(np.zeros((2, 16), dtype=np.float32), 3)
    assert scores.tolist() == [[0.0] * 3] * 2
    assert found.tolist() == [[0, 1, 2]] * 2


def test_no_query_at_all() -> None:
    scores, found = engine_of(cloud(np.random.default_rng(9), "random", 20, 16)).search(np.zeros((0, 16), np.float32), 3)
    assert scores.shape == found.shape == (0, 3)


@pytest.mark.parametrize(
    ("queries", "k", "sentence"),
    [
        (np.zeros((1, 16)), 0, "k is 0"),
        (np.zeros((1, 15)), 1, "rows of 16 values"),
        (np.zeros(16), 1, "rows of 16 values"),
        (np.full((1, 16), np.nan), 1, "not finite"),
        (np.full((1, 16), np.inf), 1, "not finite"),
    ],
)
def test_wrong_queries_are_refused(queries: Floats, k: int, sentence: str) -> None:
    engine = engine_of(cloud(np.random.default_rng(10), "random", 20, 16))
    with pytest.raises(ValueError, match=sentence):
        engine.search(queries.astype(np.float32), k)


def test_a_product_outside_its_bound_is_not_used() -> None:
    rows = cloud(np.random.default_rng(11), "random", 500, 64)
    full = Product(torch.from_numpy(rows), norms_of(rows))
    wrong = half_product(rows)
    wrong.matrix[7] *= 1.5
    together, alone = chosen_products(wrong, full, VectorProduct(full.matrix, norms_of(rows)))
    assert together is full
    assert alone.dtype == torch.float32


def test_the_index_is_searched_where_it_is_mapped(small: Built) -> None:
    with open_index(small.path) as index:
        engine = load_engine(index, "cpu")
        assert (engine.name, engine.device, engine.count, engine.dim) == ("exact", "cpu", 6, 384)
        scores, rows = engine.search(np.array(index.vectors.full[2:3]), 10)
        assert rows[0, 0] == 2
        assert scores[0, 0] == pytest.approx(1.0, abs=1e-6)
        assert isinstance(engine, ExactEngine)
        assert engine._full.data_ptr() == index.vectors.full.ctypes.data
        assert load_engine(index, "cpu", "faiss").search(np.array(index.vectors.full[2:3]), 10)[1].tolist() == rows.tolist()


def test_engines_and_devices_that_are_not_there(small: Built) -> None:
    with open_index(small.path) as index:
        with pytest.raises(ConfigurationError, match="no engine 'quick'"):
            load_engine(index, "cpu", "quick")
        with pytest.raises(DeviceUnavailable, match="there is no device cuda:99 here: seen are cpu"):
            load_engine(index, "cuda:99")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [384, 768])
def test_rows_whose_scores_differ_by_less_than_half_precision_can_tell(kind: str, dim: int) -> None:
    """Rows that step away from the query by less than bfloat16, and then less than float32, resolves; one of them asked alone."""
    rng = np.random.default_rng(12)
    query = unit(rng.standard_normal((1, dim)))[0].astype(np.float64)
    across = rng.standard_normal((600, dim))
    across = across / np.linalg.norm(across, axis=1, keepdims=True)
    angles = np.concatenate([np.linspace(0, 1e-3, 300), np.linspace(0.05, 0.05 + 1e-6, 300)])
    rows = unit(query + angles[:, None] * across)
    rows = np.concatenate([rows, unit(rng.standard_normal((2_000, dim)))])[rng.permutation(2_600)]
    for k in (1, 5, 10, 100):
        check(rows, query[None].astype(np.float32), k, kind)
        check(rows, np.repeat(query[None], 3, axis=0).astype(np.float32), k, kind)


@pytest.mark.parametrize(("near", "passes"), [(1_500, 0), (3_000, 1)])
def test_more_rows_of_faiss_are_looked_at_before_all_are(near: int, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,048 rows hold all that could matter of 1,500 near-duplicates; only beyond that the float32 rows are passed over, once."""
    scanned: list[int] = []
    inner = Product.blocks

    def counted(self: Product, queries: torch.Tensor, block_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        scanned.append(len(queries))
        return inner(self, queries, block_rows)

    monkeypatch.setattr(Product, "blocks", counted)
    rng = np.random.default_rng(15)
    centre = rng.standard_normal(384)
    rows = np.concatenate([unit(centre + 1e-4 * rng.standard_normal((near, 384))), cloud(rng, "random", 3_000, 384)])
    engine = check(rows, unit(np.concatenate([centre[None], rng.standard_normal((1, 384))])), 10, "half faiss")
    assert (engine.certified, engine.rescored) == (1, 1)
    assert scanned == [1] * passes


@pytest.mark.parametrize("kind", ["half faiss", "shards"])
@pytest.mark.parametrize("most", [3, 40])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 60), shape=st.sampled_from(["random", "clustered", "duplicates"]))
def test_few_rows_at_a_time_change_no_answer(kind: str, most: int, seed: int, k: int, shape: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ragpool.index.flat_faiss.CUDA_K_MAX", most)
        rng = np.random.default_rng(seed)
        check(cloud(rng, shape, 200, 16), cloud(rng, "random", 5, 16), k, kind)


def test_rows_that_stand_elsewhere_are_multiplied_in_blocks() -> None:
    """`meta` stands for the device that multiplies: blocks of the rows on the CPU come to it."""
    rows = cloud(np.random.default_rng(16), "random", 100, 16)
    product = Product(torch.from_numpy(rows), norms_of(rows), torch.device("meta"))
    found = list(product.blocks(torch.empty((3, 16), device="meta"), 1 << 24))
    assert [(first, block.shape, block.device.type) for first, block in found] == [(0, (3, 100), "meta")]


def test_queries_that_are_open_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    inner = Product.at_least

    def counted(self: Product, queries: torch.Tensor, least: torch.Tensor, block_rows: int) -> list[torch.Tensor]:
        passes.append(len(queries))
        return inner(self, queries, least, block_rows)

    monkeypatch.setattr(Product, "at_least", counted)
    rng = np.random.default_rng(13)
    centre = rng.standard_normal(384)
    rows = np.concatenate([unit(centre + 1e-3 * rng.standard_normal((2_000, 384))), cloud(rng, "random", 2_000, 384)])
    queries = np.concatenate(
        [unit(centre + 1e-3 * rng.standard_normal((9, 384))), rows[3_000:3_004], np.zeros((1, 384), np.float32)]
    )
    engine = check(rows, queries, 10)
    assert engine.certified <= 4
    assert passes == [13 - engine.certified]


@pytest.mark.parametrize("scale", [1e-34, 1e30])
def test_rows_at_the_ends_of_float32(scale: float) -> None:
    rng = np.random.default_rng(14)
    check((cloud(rng, "clustered", 500, 48) * scale).astype(np.float32), unit(rng.standard_normal((5, 48))), 7)
