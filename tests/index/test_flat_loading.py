"""Flat indexes put where they are searched: what is refused, which engine is sooner, and on a GPU a hundred thousand rows."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ragpool.index import build as builder
from ragpool.index import flat_loading
from ragpool.index.build import BuildOptions, Built, build_index
from ragpool.index.encoder import Encoded, Kind
from ragpool.index.engine import EXACT, FAISS, load_engine
from ragpool.index.engine_trial import BATCHES, seconds_of, sooner, try_engines, unit_rows
from ragpool.index.errors import ConfigurationError, DeviceFull, DeviceUnavailable
from ragpool.index.exact import ExactEngine
from ragpool.index.flat_faiss import HalfFaissProduct, filled
from ragpool.index.manifest import HalfNorms
from ragpool.index.models import Prefixes
from ragpool.index.placement import Memory
from ragpool.index.product import Product
from ragpool.index.selection import keeps_bound, spread
from ragpool.index.store import Index, open_index

faiss = pytest.importorskip("faiss")

Floats = NDArray[np.float32]
DIM = 64
COUNTS = {"cpu": 4_000, "cuda:0": 120_000}


class Crowded:
    """An encoder whose texts are row numbers, of rows that stand in crowds of near-duplicates and some that are the same."""

    model, fingerprint, dim, max_length = "crowded", "ef" * 32, DIM, 64
    settings: ClassVar[dict[str, str]] = {}
    device, dtype, backend, normalize = "cpu", "float32", "double", True
    prefixes = Prefixes("", "")

    def __init__(self, options: BuildOptions) -> None:
        self.centres = np.random.default_rng(0).standard_normal((20, DIM))

    def encode(self, texts: list[str], kind: Kind = "query") -> Encoded:
        numbers = [int(text.split()[-1]) for text in texts]
        steps = np.array([np.random.default_rng(number % 3_000).standard_normal(DIM) for number in numbers])
        wide = np.array([[0.3, 1e-3, 1e-6][number % 3] for number in numbers])
        rows = self.centres[[number % 20 for number in numbers]] + wide[:, None] * steps
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return Encoded(rows, [1] * len(texts), [False] * len(texts))


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Built]:
    """Builds, once for each count, a flat index of so many rows."""
    made: dict[int, Built] = {}

    def built(count: int) -> Built:
        if count not in made:
            folder = tmp_path_factory.mktemp("crowded")
            corpus = folder / "corpus.jsonl"
            corpus.write_text("".join(json.dumps({"_id": f"id{n}", "text": str(n)}) + "\n" for n in range(count)))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(builder, "_encoder", Crowded)
                patch.setattr(builder, "usable_cores", lambda: 1)
                made[count] = build_index([corpus], folder / "index", BuildOptions(device="cpu", type="flat"))
        return made[count]

    return built


def check_against_float64(rows: Floats, queries: Floats, scores: Floats, found: NDArray[np.int64]) -> None:
    """The best scores there are, in their order, by rows that have them, none twice."""
    truth = queries.astype(np.float64) @ rows.astype(np.float64).T
    best = -np.sort(-truth, axis=1)[:, : found.shape[1]]
    own = np.take_along_axis(truth, found, axis=1)
    assert (np.abs(own - best) <= 1e-6).all()
    assert (np.abs(scores - own) <= 1e-6).all()
    for line, its in zip(scores.tolist(), found.tolist(), strict=True):
        order = list(zip((-score for score in line), its, strict=True))
        assert order == sorted(order)
        assert len(set(its)) == len(its)


@pytest.mark.parametrize(
    ("device", "engine", "sharing"),
    [
        ("cpu", "exact", 1),
        ("cpu", "faiss", 1),
        *(
            pytest.param("cuda:0", engine, sharing, marks=pytest.mark.gpu)
            for engine in ("exact", "faiss")
            for sharing in (1, 10_000)  # so many that the float32 rows stay on the host
        ),
    ],
)
def test_among_near_duplicates_it_finds_what_float64_finds(
    crowded: Callable[[int], Built], device: str, engine: str, sharing: int
) -> None:
    if device != "cpu" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    if device != "cpu" and engine == FAISS and not hasattr(faiss, "StandardGpuResources"):
        pytest.skip("the installed faiss has no GPU in it")
    with open_index(crowded(COUNTS[device]).path) as index:
        rows = np.array(index.vectors.full)
        rng = np.random.default_rng(1)
        near = rows[rng.integers(0, len(rows), 12)] + 1e-4 * rng.standard_normal((12, DIM))
        queries = np.concatenate([rows[:4], near, rng.standard_normal((4, DIM))]).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        loaded = load_engine(index, device, engine, sharing=sharing)
        assert isinstance(loaded, ExactEngine)
        assert (loaded.name, loaded.device) == (engine, device)
        assert loaded._full.device.type == ("cuda" if device != "cpu" and sharing == 1 else "cpu")
        for k in (1, 10, 1_000):
            check_against_float64(rows, queries, *loaded.search(queries, k))
            check_against_float64(rows, queries[:1], *loaded.search(queries[:1], k))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no 2 CUDA devices here")
def test_rows_over_two_gpus(crowded: Callable[[int], Built]) -> None:
    with open_index(crowded(COUNTS["cuda:0"]).path) as index:
        rows = np.array(index.vectors.full)
        loaded = load_engine(index, "cuda:0", gpus=2)
        assert loaded.name == FAISS
        check_against_float64(rows, rows[::9_000], *loaded.search(rows[::9_000], 100))


@pytest.mark.parametrize(("engine", "what"), [(EXACT, "its bfloat16 rows"), (FAISS, "its float32 rows")])
def test_more_rows_than_memory_are_refused_on_cpu(
    crowded: Callable[[int], Built], engine: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_index(crowded(COUNTS["cpu"]).path) as index:
        need = index.count * DIM * (2 if engine == EXACT else 4)
        monkeypatch.setattr(flat_loading, "memory_limit", lambda: need)
        load_engine(index, "cpu", engine)
        monkeypatch.setattr(flat_loading, "memory_limit", lambda: need - 1)
        with pytest.raises(DeviceUnavailable, match=f"does not fit cpu: {what} take"):
            load_engine(index, "cpu", engine)


class SmallDevices:
    """Stand where CUDA devices do: torch computes on the CPU, faiss keeps its float16 rows there, and memory is what is said."""

    def __init__(self, patch: pytest.MonkeyPatch, count: int, free: int, total: int) -> None:
        self.free, self.total = free, total
        patch.setattr(torch.cuda, "device_count", lambda: count)
        patch.setattr(flat_loading, "memory_of", lambda number: Memory(number, self.free, self.total))
        patch.setattr(flat_loading, "cuda_parts", self.parts)

    def parts(self, numbers: tuple[int, ...], dim: int, temp_bytes: int) -> list[Any]:
        codes = (faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        return [faiss.IndexScalarQuantizer(dim, *codes) for _ in numbers]


def load_as_on_cuda(index: Index, engine: str, gpus: int = 1, sharing: int = 1, fastest: str = EXACT) -> ExactEngine:
    return flat_loading._on_cuda(index, torch.device("cpu"), engine, gpus, sharing, fastest)


@pytest.mark.parametrize(
    ("engine", "gpus", "sharing", "fastest", "name", "mapped"),
    [
        ("auto", 1, 1, EXACT, EXACT, False),
        ("auto", 1, 1, FAISS, FAISS, False),
        ("auto", 2, 1, EXACT, FAISS, False),
        ("exact", 1, 10_000, FAISS, EXACT, True),
        ("faiss", 1, 10_000, EXACT, FAISS, True),
    ],
)
def test_loading_puts_together_what_was_decided(
    crowded: Callable[[int], Built], engine: str, gpus: int, sharing: int, fastest: str, name: str, mapped: bool
) -> None:
    with open_index(crowded(COUNTS["cpu"]).path) as index, pytest.MonkeyPatch.context() as patch:
        SmallDevices(patch, 2, 80 << 30, 80 << 30)
        loaded = load_as_on_cuda(index, engine, gpus, sharing, fastest)
        assert loaded.name == name
        assert (loaded._full.data_ptr() == index.vectors.full.ctypes.data) == mapped
        rows = np.array(index.vectors.full)
        check_against_float64(rows, rows[::400], *loaded.search(rows[::400], 100))


def test_loading_refuses_before_it_copies_and_tells_now_from_never(crowded: Callable[[int], Built]) -> None:
    with open_index(crowded(COUNTS["cpu"]).path) as index, pytest.MonkeyPatch.context() as patch:
        devices = SmallDevices(patch, 2, 1 << 30, 2 << 30)
        patch.setattr(flat_loading, "copied", None)  # nothing may be copied
        devices.free = 1 << 20
        with pytest.raises(DeviceFull, match="no room on cuda:0 now"):
            load_as_on_cuda(index, "exact")
        devices.total = 1 << 20
        with pytest.raises(DeviceUnavailable, match="does not fit cuda:0"):
            load_as_on_cuda(index, "faiss", 2)


def test_a_device_that_computes_something_else_is_refused(crowded: Callable[[int], Built]) -> None:
    with open_index(crowded(COUNTS["cpu"]).path) as index, pytest.MonkeyPatch.context() as patch:
        SmallDevices(patch, 1, 80 << 30, 80 << 30)
        inner = faiss.IndexScalarQuantizer.add
        patch.setattr(faiss.IndexScalarQuantizer, "add", lambda self, rows: inner(self, np.roll(rows, 1, axis=0).copy()))
        with pytest.raises(DeviceUnavailable, match="less precise than the engine faiss relies on: choose the other one"):
            load_as_on_cuda(index, "faiss")


def test_a_faiss_without_cuda_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from ragpool.index.flat_faiss import cuda_parts

    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    with pytest.raises(ConfigurationError, match=r"install ragpool\[gpu\] in place of ragpool\[cpu\]"):
        cuda_parts((0,), DIM, 1)
    assert try_engines(DIM, torch.device("cuda", 0)) == {}  # and there is nothing to choose between


# ---- which engine is sooner ------------------------------------------------------------------------------------------

UNIT = HalfNorms("bfloat16", 1 + 2.0**-8, 2.0**-8, 1 + 2.0**-20)


def exact_product(rows: torch.Tensor) -> Product:
    return Product(rows.bfloat16(), UNIT)


def faiss_product(rows: torch.Tensor, parts: int = 1) -> Product:
    """As on a CUDA device, but that faiss keeps its float16 rows on the CPU."""
    codes = (faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    return HalfFaissProduct(
        filled([faiss.IndexScalarQuantizer(rows.shape[1], *codes) for _ in range(parts)], rows), rows, UNIT, torch.device("cpu")
    )


@pytest.mark.parametrize("make", [exact_product, faiss_product, lambda rows: faiss_product(rows, 3)])
def test_a_product_that_is_not_of_these_rows_does_not_keep_its_bound(make: Callable[[torch.Tensor], Product]) -> None:
    rows = unit_rows(3_000, DIM)
    places = spread(len(rows), 16)
    assert keeps_bound(make(rows), rows, places)
    assert not keeps_bound(make(rows.roll(1, dims=0)), rows, places)
    assert not keeps_bound(make(rows * 1.02), rows, places)
    lost = rows.clone()
    lost[2_000:] = rows[:1_000]  # as of a device whose share of the rows is another's
    assert not keeps_bound(make(lost), rows, places)
    assert not keeps_bound(make(rows[:2_900]), rows, places)  # what it finds is right, and some are not there


def test_rows_that_are_spread_are_there() -> None:
    for count in (1, 7, 1 << 25, (1 << 31) + 1):
        places = spread(count, 16)
        assert (int(places[0]), int(places[-1])) == (0, count - 1)


def test_both_engines_are_timed_alone_and_in_batches_and_those_that_fail_are_left_out() -> None:
    rows = unit_rows(2_000, DIM)

    def broken() -> Product:
        raise RuntimeError("Error: 'err' failed: out of memory")

    found = seconds_of({EXACT: lambda: exact_product(rows), FAISS: lambda: faiss_product(rows)}, rows)
    assert set(found) == {(engine, batch) for engine in (EXACT, FAISS) for batch in BATCHES}
    assert min(found.values()) > 0
    for wrong in (broken, lambda: faiss_product(rows.roll(1, dims=0))):
        assert set(seconds_of({EXACT: lambda: exact_product(rows), FAISS: wrong}, rows)) == {(EXACT, 1), (EXACT, 64)}


def test_a_product_is_gone_before_the_next_is_made() -> None:
    """Also one that is passed over: on a device that holds one of them the second would seem not to fit."""
    rows = unit_rows(2_000, DIM)
    made: list[weakref.ref[Product]] = []

    def remembered(make: Callable[[], Product]) -> Callable[[], Product]:
        def alone() -> Product:
            assert [one() for one in made] == [None] * len(made)
            product = make()
            made.append(weakref.ref(product))
            return product

        return alone

    wrong = rows.roll(1, dims=0)
    makes = {EXACT: lambda: exact_product(rows), "wrong": lambda: faiss_product(wrong), FAISS: lambda: faiss_product(rows)}
    assert {engine for engine, _ in seconds_of({name: remembered(make) for name, make in makes.items()}, rows)} == {EXACT, FAISS}
    assert len(made) == len(makes)


def test_what_is_sooner_looks_at_one_query_and_at_many() -> None:
    def of(exact: tuple[float, float], faiss: tuple[float, float]) -> str:
        both = {EXACT: exact, FAISS: faiss}
        return sooner({(name, batch): took for name, times in both.items() for batch, took in zip(BATCHES, times, strict=True)})

    assert of((1.0, 1.0), (1.0, 1.0)) == EXACT
    assert of((1.0, 4.0), (2.0, 1.0)) == FAISS
    assert of((1.0, 2.0), (4.0, 1.0)) == EXACT
    assert sooner({}) == EXACT
    assert sooner({(FAISS, 1): 1.0, (FAISS, 64): 1.0}) == FAISS


def test_random_rows_are_the_same_each_time_and_of_norm_1(tmp_path: Path) -> None:
    rows = unit_rows(500, 48)
    assert torch.equal(rows, unit_rows(500, 48))
    assert torch.allclose(rows.norm(dim=1), torch.ones(500))
    assert float((rows - rows.bfloat16().float()).norm(dim=1).max()) <= UNIT.error_max
