"""Every index type against an exact search on clustered rows: what it finds, what it scores, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ragpool.conf.settings import ConfigurationError
from ragpool.index import build as builder
from ragpool.index import faiss_trial
from ragpool.index.build import BuildOptions, Built, build_index
from ragpool.index.checks import verify_files, verify_passages, verify_vectors
from ragpool.index.effort import Tried, asked_of, between, cheapest, drawn, efforts, recall, true_neighbours
from ragpool.index.encoder import Encoded, Kind
from ragpool.index.engine import Engine, idle_effort, load_engine
from ragpool.index.errors import DeviceUnavailable, IndexDamaged, IndexUnusable
from ragpool.index.faiss_engine import FaissPartEngine, engine_of
from ragpool.index.faiss_files import from_factory, innermost, quantised_bytes, shape_of
from ragpool.index.faiss_fill import train
from ragpool.index.faiss_part import blocks_of, make_part
from ragpool.index.faiss_trial import check_factory
from ragpool.index.index_types import COMPACT, HNSW, Plan, Shape, lists_for, plan_index
from ragpool.index.manifest import FLAT, SearchFacts, read_manifest
from ragpool.index.models import Prefixes
from ragpool.index.placement import Memory, cloning
from ragpool.index.store import open_index
from ragpool.index.vector_files import check_type
from ragpool.index.verify import verify_once

faiss = pytest.importorskip("faiss")

Floats = NDArray[np.float32]
COUNT, DIM = 3_000, 32
LONG = os.environ.get("RAGPOOL_TEST_LONG") == "1"
TYPES = ("hnsw", "compact", "IVF16,SQ8", "PCA24,Flat", "HNSW16,Flat")
GIB = 1 << 30


def clustered(count: int, dim: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, dim))
    rows = centres[rng.integers(0, 40, count)] + 0.7 * rng.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Numbered:
    """An encoder whose texts are row numbers."""

    model, fingerprint, dim, max_length = "numbered", "cd" * 32, DIM, 64
    settings: ClassVar[dict[str, str]] = {}
    device, dtype, backend, normalize = "cpu", "float32", "double", True
    prefixes = Prefixes("", "")
    rows = clustered(COUNT, DIM)

    def __init__(self, options: BuildOptions) -> None:
        pass

    def encode(self, texts: list[str], kind: Kind = "query") -> Encoded:
        return Encoded(self.rows[[int(text.split()[-1]) for text in texts]], [1] * len(texts), [False] * len(texts))


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    """Builds, once for each type, the index of `Numbered.rows`; returns what it said too."""
    folder = tmp_path_factory.mktemp("types")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": f"id{n}", "title": "row", "text": str(n)}) + "\n" for n in range(COUNT)))
    made: dict[str, Built] = {}

    def built(type_: str, **options: object) -> Built:
        key = json.dumps([type_, options])
        if key not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(builder, "_encoder", Numbered)
                patch.setattr(builder, "usable_cores", lambda: 1)
                made[key] = build_index([corpus], folder / str(len(made)), BuildOptions(device="cpu", type=type_, **options))
        return made[key]

    return built


def near(count: int) -> Floats:
    rng = np.random.default_rng(9)
    rows = Numbered.rows[rng.integers(0, COUNT, count)] + 0.05 * rng.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def exact(queries: Floats, k: int) -> NDArray[np.int64]:
    return np.argsort(-(queries.astype(np.float64) @ Numbered.rows.astype(np.float64).T), axis=1, kind="stable")[:, :k]


def check_results(scores: Floats, rows: NDArray[np.int64]) -> None:
    """Best first, ties by row, no row twice; what was not found stands last."""
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    for line, found in zip(scores.tolist(), rows.tolist(), strict=True):
        there = [row for row in found if row >= 0]
        assert len(set(there)) == len(there)
        assert found[len(there) :] == [-1] * (len(found) - len(there))
        assert line[len(there) :] == [-np.inf] * (len(found) - len(there))
        order = list(zip((-score for score in line), found, strict=True))[: len(there)]
        assert order == sorted(order)


# ---- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type_", "bar"), [("hnsw", 0.98), ("compact", 0.98), ("IVF16,SQ8", 0.95), ("HNSW16,Flat", 0.98)])
def test_it_finds_what_an_exact_search_finds(build: Callable[..., Built], type_: str, bar: float) -> None:
    built = build(type_)
    with open_index(built.path) as index:
        engine = load_engine(index, "cpu")
        assert (engine.name, engine.device, engine.count, engine.dim) == ("faiss", "cpu", COUNT, DIM)
        queries = near(200)
        scores, rows = engine.search(queries, 10)
        check_results(scores, rows)
        assert recall(rows.tolist(), exact(queries, 10)) >= bar
        for k in (1, 100, COUNT + 5):
            scores, rows = engine.search(queries[:5], k)
            assert rows.shape == (5, min(k, COUNT))
            check_results(scores, rows)
    assert built.manifest.search.recall_at_10 >= bar - 0.02
    assert built.manifest.search.queries_per_s > 0


@pytest.mark.parametrize("type_", ["hnsw", "compact", "IVF16,SQ8"])
def test_an_operator_may_choose_the_effort(build: Callable[..., Built], type_: str) -> None:
    """0 leaves it at what the build found; no effort finds less than k, and one beyond all lists is all of them."""
    queries = near(200)
    truth = exact(queries, 10)
    with open_index(build(type_).path) as index:
        found = {effort: load_engine(index, "cpu", effort=effort).search(queries, 10)[1] for effort in (0, 1, 100_000)}
        calibrated = load_engine(index, "cpu").search(queries, 10)[1]
    assert np.array_equal(found[0], calibrated)
    little, much = recall(found[1].tolist(), truth), recall(found[100_000].tolist(), truth)
    assert little < much - 0.01
    assert much >= recall(calibrated.tolist(), truth)
    assert (found[1] >= 0).all()


@pytest.mark.parametrize(("type_", "idle"), [("flat", True), ("PCA24,Flat", True), ("hnsw", False), ("compact", False)])
def test_an_effort_does_nothing_where_there_is_no_choice_and_that_is_said(
    build: Callable[..., Built], type_: str, idle: bool
) -> None:
    manifest = build(type_).manifest
    told = f"index.effort = 64 does nothing for wiki: an index of type {type_} leaves no such choice"
    assert idle_effort(64, manifest, "wiki") == ((told,) if idle else ())
    assert idle_effort(0, manifest, "wiki") == ()


def test_every_list_is_visited_before_less_than_k_is_returned(build: Callable[..., Built]) -> None:
    with open_index(build("compact").path) as index:
        _, rows = load_engine(index, "cpu").search(near(3), COUNT)
        assert (np.sort(rows, axis=1) == np.arange(COUNT)).all()


def test_refined_scores_are_products_with_the_float16_rows(build: Callable[..., Built]) -> None:
    with open_index(build("compact").path) as index:
        engine = load_engine(index, "cpu")
        refine = index.part.refine
        assert refine is not None
        assert refine.dtype == np.float16
        queries = near(20)
        for scale in (1.0, 1e-20, 1e20):
            scores, rows = engine.search((queries * np.float32(scale)).astype(np.float32), 10)
            own = np.einsum("nkd,nd->nk", refine[rows].astype(np.float64), (queries * np.float32(scale)).astype(np.float64))
            assert np.allclose(scores, own, rtol=1e-6, atol=1e-7 * scale)
        alone = np.concatenate([engine.search(queries[n : n + 1], 10)[0] for n in range(20)])
        assert np.array_equal(alone, engine.search(queries, 10)[0])


def test_without_refinement_it_is_smaller_and_finds_less(build: Callable[..., Built]) -> None:
    refined, plain = build("compact", bytes_per_vector=8).manifest, build("compact", bytes_per_vector=8, refine=False).manifest
    assert "f16" in refined.files
    assert plain.files.keys() == {"rows", "offsets", "ids", "faiss"}
    assert plain.search.candidates == 0 < refined.search.candidates
    assert plain.search.recall_at_10 < refined.search.recall_at_10
    with open_index(build("compact", bytes_per_vector=8, refine=False).path) as index:
        check_results(*load_engine(index, "cpu").search(near(5), 10))


def test_equal_rows_come_in_their_order(tmp_path: Path) -> None:
    rows = np.repeat(clustered(30, DIM), 40, axis=0)
    facts = make_part(rows, Plan(HNSW, "HNSW32,SQfp16", 0, False, sample_rows=256), 1, 1, tmp_path)
    engine = engine_of(np.memmap(tmp_path / "faiss", np.uint8, "r"), None, facts, "here")
    scores, found = engine.search(rows[:1], 20)
    check_results(scores, found)


def test_what_faiss_does_not_find_is_row_minus_one(tmp_path: Path) -> None:
    rows = clustered(400, DIM)
    facts = make_part(rows, Plan("x", "IVF8,Flat", 0, False, sample_rows=400), 1, 1, tmp_path)

    class Forgetful:
        """A faiss index that finds three rows at most."""

        ntotal, d = 400, DIM

        def search(self, queries: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
            found = np.full((len(queries), k), -1)
            found[:, :3] = [5, 2, 9]
            return np.where(found < 0, -3e38, 1.0).astype(np.float32), found

    engine = FaissPartEngine(Forgetful(), facts, None, "cuda:0", part=faiss.IndexFlatIP(DIM))
    scores, found = engine.search(rows[:2], 6)
    assert found.tolist() == [[2, 5, 9, -1, -1, -1]] * 2
    check_results(scores, found)


def test_more_than_a_gpu_returns_is_refused_in_words(tmp_path: Path) -> None:
    rows = clustered(3_000, 8)
    facts = make_part(rows, Plan("x", "Flat", 0, False, sample_rows=1), 1, 1, tmp_path)
    part = engine_of(np.memmap(tmp_path / "faiss", np.uint8, "r"), None, facts, "here")._index
    engine = FaissPartEngine(part, facts, None, "cuda:0", k_max=2_048)
    assert engine.search(rows[:1], 2_048)[1].shape == (1, 2_048)
    with pytest.raises(ValueError, match="k is 2049: faiss finds at most 2048 rows on cuda:0"):
        engine.search(rows[:1], 2_049)
    refined = FaissPartEngine(part, SearchFacts(candidates=64), torch.from_numpy(rows).half(), "cuda:0", k_max=2_048)
    assert refined.search(rows[:1], 1_000)[1].shape == (1, 1_000)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", TYPES)
def test_it_is_whole(build: Callable[..., Built], type_: str) -> None:
    built = build(type_)
    with open_index(built.path) as index:
        verify_files(index)
        verify_passages(index)
        assert f"{COUNT} x {DIM}" in verify_vectors(index).found
        assert index.manifest.type == type_
        assert read_manifest(built.path).search == built.manifest.search


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), type_=st.sampled_from([FLAT, "hnsw", "compact", "IVF16,SQ8"]))
def test_a_flipped_bit_anywhere_is_found(build: Callable[..., Built], data: st.DataObject, type_: str) -> None:
    folder = build(type_).path
    path = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.is_file() and path.stat().st_size)))
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    cache = folder.parent / "cache"

    def flip() -> None:
        with open(path, "r+b") as file:
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes([byte ^ bit]))

    verify_once(open_index(folder), cache)
    flip()
    try:
        with pytest.raises(IndexUnusable):
            verify_files(open_index(folder))
        with pytest.raises(IndexUnusable):
            verify_once(open_index(folder), cache)
    finally:
        flip()
    verify_files(open_index(folder))


@pytest.mark.parametrize("type_", [FLAT, "hnsw", "compact"])
def test_files_cut_swapped_or_missing_are_refused_in_words(build: Callable[..., Built], type_: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(build(type_).path, tmp_path / "copy"))
    entries = read_manifest(folder).files
    other = build("IVF16,SQ8").manifest
    for role, entry in entries.items():
        path = folder / entry.name
        whole = path.read_bytes()
        for wrong in (whole[: len(whole) // 2], whole[:-64] + bytes(64), whole[:-1], b""):
            path.write_bytes(wrong)
            with pytest.raises(IndexDamaged, match=str(folder)):
                open_index(folder)
        if role in other.files and other.files[role].size == entry.size:
            path.write_bytes((build("IVF16,SQ8").path / other.files[role].name).read_bytes())
            with pytest.raises(IndexDamaged, match="was damaged or exchanged"):
                open_index(folder)
        path.unlink()
        with pytest.raises(IndexDamaged, match="cannot be read"):
            open_index(folder)
        path.write_bytes(whole)
    verify_files(open_index(folder))


def test_a_part_of_another_index_is_refused(build: Callable[..., Built], tmp_path: Path) -> None:
    with open_index(build("hnsw").path) as index:
        make_part(clustered(500, DIM), Plan(HNSW, "HNSW8,SQfp16", 0, False, sample_rows=256), 1, 1, tmp_path)
        index.part.part = np.memmap(tmp_path / "faiss", np.uint8, "r")
        with pytest.raises(IndexDamaged, match="its faiss part holds 500 rows of 32 values, its manifest says 3000 of 32"):
            load_engine(index, "cpu")
        index.part.part = np.frombuffer(b"no index at all, only a few words of text", np.uint8)
        with pytest.raises(IndexDamaged, match="is no index that faiss can read"):
            load_engine(index, "cpu")


def test_a_row_that_is_listed_twice_is_found_by_verify(build: Callable[..., Built]) -> None:
    with open_index(build("IVF16,SQ8").path) as index:
        data = np.array(index.part.part)
        own = np.frombuffer(np.array([7], "<i8").tobytes(), np.uint8)
        places = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(data, 8) == own).all(axis=1))
        data[places[-1]] = 8
        index.part.part = data
        with pytest.raises(IndexDamaged, match="does not list every row once"):
            verify_vectors(index)


_PRIVATE = """
import json, sys
import faiss
import numpy as np
from ragpool.index.store import open_index
from ragpool.index.engine import load_engine
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous:"))
index = open_index(sys.argv[1])
part = index.manifest.search.part_bytes
load_engine(index, "cpu").search(np.eye(index.dim, dtype=np.float32)[:4], 5)   # libraries and pools of threads
before = anonymous()
engines = [load_engine(index, "cpu") for _ in range(8)]
for engine in engines:
    engine.search(np.eye(index.dim, dtype=np.float32)[:4], 5)
private = anonymous() - before
before = anonymous()
copies = [faiss.deserialize_index(np.array(index.part.part)) for _ in range(8)]
print(json.dumps([part, 1024 * private, 1024 * (anonymous() - before)]))
"""


@pytest.mark.process
@pytest.mark.parametrize("type_", ["hnsw", "IVF16,SQ8"])
def test_workers_share_what_is_mapped(build: Callable[..., Built], type_: str) -> None:
    command = [sys.executable, "-c", _PRIVATE, str(build(type_).path)]
    part, private, copied = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert type_ != "hnsw" or copied > 4 * part, "copies would be seen"
    assert private < 0.5 * part, "of eight engines together: not one of them has a copy"


# ---- plans -----------------------------------------------------------------------------------------------------------


def test_auto_is_exact_while_that_is_quick_then_a_graph_while_it_fits() -> None:
    assert plan_index("auto", 32, True, 1_000_000, 384, 64 * GIB).type == FLAT
    assert plan_index("auto", 32, True, 5_000_000, 384, 64 * GIB).type == HNSW
    assert plan_index("auto", 32, True, 5_000_000, 384, 8 * GIB).type == COMPACT


def test_auto_takes_no_graph_for_cuda_devices_which_search_none() -> None:
    assert plan_index("auto", 32, True, 1_000_000, 384, 64 * GIB, for_cuda=True).type == FLAT
    assert plan_index("auto", 32, True, 5_000_000, 384, 64 * GIB, for_cuda=True).type == COMPACT
    assert plan_index("hnsw", 32, True, 1_000_000, 384, 64 * GIB, for_cuda=True).type == HNSW, "who asks for it gets it"


@pytest.mark.parametrize(
    ("factory", "dim", "shape"),
    [
        ("OPQ32,IVF65536,PQ32", 384, Shape(32 + 2 + 8, 4 * 384 * (65_536 + 256), 65_536, 65_536)),
        ("IVF16,SQ8", 32, Shape(32 + 1 + 8, 4 * 32 * 17, 16, 16)),
        ("HNSW32,Flat", 384, Shape(4 * 384 + 4 * 66 + 12, 4 * 384, 0, 1, graph=True)),
        ("PCA24,HNSW16,SQ8", 32, Shape(24 + 4 * 34 + 12, 4 * 32, 0, 24, graph=True)),
        ("PQ16", 64, Shape(16, 4 * 64 * 256, 0, 256)),
        ("OPQ8_256,IVF16,SQ8,RFlat", 512, Shape(256 + 1 + 4 * 512 + 8, 4 * 512 * 17, 16, 512)),
        ("Flat", 8, Shape(32, 4 * 8, 0, 1)),
        ("RQ8x8", 384, Shape(8, 4 * 384 * 8 * 256, 0, 384, copies=11)),
        ("IVF16,PRQ2x2x4", 32, Shape(2 + 1 + 8, 4 * 32 * (16 + 2 * 2 * 16), 16, 32, copies=11)),
    ],
)
def test_an_empty_index_tells_what_a_factory_string_takes(factory: str, dim: int, shape: Shape) -> None:
    assert shape_of(factory, dim) == shape


@pytest.mark.parametrize(
    "factory", ["OPQ4_32,IVF64,PQ4", "IVF64,SQ8", "HNSW16,Flat", "HNSW32,SQfp16", "PQ4", "PCA24,Flat", "RQ2x4"]
)
def test_the_size_that_is_told_is_that_of_the_file(factory: str, tmp_path: Path) -> None:
    rows = clustered(3_000, DIM)
    plan = plan_index(factory, 32, False, len(rows), DIM, GIB, shape_of(factory, DIM))
    made = make_part(rows, plan, 1, 1, tmp_path)
    assert 0.8 * made.part_bytes < plan.part_bytes < 1.25 * made.part_bytes
    assert made.sample_rows == plan.sample_rows


@pytest.mark.parametrize(
    ("factory", "code", "float16_tables"),
    [
        ("OPQ32,IVF16,PQ32", 32, False),
        ("IVF16,PQ48,RFlat", 48, False),
        ("OPQ64,IVF16,PQ64", 64, True),
        ("IVF16,PQ96x4", 48, False),
        ("PQ64", 64, True),
        ("IVF16,SQ8", 0, False),
        ("PCA64,Flat", 0, False),
        ("HNSW16_SQfp16", 0, False),
    ],
)
def test_half_precision_tables_go_by_the_codes_alone(factory: str, code: int, float16_tables: bool) -> None:
    """Rotation, centroids and row numbers count for memory: divided among few rows they made long codes of short ones."""
    found = quantised_bytes(from_factory(factory, 384))
    assert found == code
    assert cloning("wiki", COMPACT, GIB, found, [Memory(0, 4 * GIB, 8 * GIB)]).float16_tables is float16_tables


@pytest.mark.parametrize("factory", ["HNSW0", "HNSW1", "HNSW1000000,SQ8", "NSG0,Flat", "NSG2000", "PCA24,HNSW5000"])
def test_a_graph_of_too_few_or_too_many_links_is_refused_in_words(factory: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_type(factory, 32, DIM)
    assert str(caught.value) == f"a graph links each row to 2 to 1,024 others, and {factory!r} asks for another number"


def test_a_hundred_million_rows_of_short_codes_are_not_refused() -> None:
    shape = shape_of("OPQ32,IVF65536,PQ32", 384)
    plan = plan_index("OPQ32,IVF65536,PQ32", 32, False, 10**8, 384, 16 * GIB, shape)
    assert plan.part_bytes < 5 * GIB
    assert (plan.sample_rows, plan.note) == (39 * 65_536, "")
    tight = plan_index("OPQ32,IVF65536,PQ32", 32, False, 10**8, 384, 8 * GIB, shape)
    assert 65_536 < tight.sample_rows < 39 * 65_536
    assert "there is memory for" in tight.note
    assert tight.peak_bytes(10**8, 384) <= 8 * GIB


def test_lists_with_few_rows_to_train_on_are_said() -> None:
    shape = Shape(32, lists=100, least=100)
    assert plan_index("IVF100,SQ8", 32, False, 1_000, 32, GIB, shape).note == (
        "750 rows are there to train with, 7.5 for each of 100 lists; they want 39"
    )
    assert not plan_index("IVF100,SQ8", 32, False, 10_000, 32, GIB, shape).note
    assert plan_index("IVF100,SQ8", 32, False, 10_000, 32, GIB, shape).sample_rows == 10_000 - 256


@given(st.integers(1, 10**9), st.sampled_from([32, 100, 384, 768, 1024, 1000]), st.integers(1, 384))
def test_a_compact_vector_takes_no_more_than_was_asked(count: int, dim: int, wanted: int) -> None:
    wanted = min(wanted, dim)
    plan = plan_index(COMPACT, wanted, True, count, dim, 1 << 60)
    if "PQ" in plan.factory:
        codes, width = map(int, plan.factory.split(",")[0].removeprefix("OPQ").split("_"))
        assert codes <= wanted
        assert width % codes == 0
        assert 0.9 * dim <= width <= dim
    assert 39 * lists_for(count) <= max(count, 39)
    assert 1 <= plan.sample_rows <= count


@pytest.mark.parametrize("dim", [384, 768, 1_024])
def test_a_rotation_has_a_row_for_each_value_to_train_with(dim: int) -> None:
    """With fewer faiss' OPQ writes beyond its memory: the build ended by SIGSEGV, or "malloc(): corrupted top size"."""
    for count in (512, 700, dim, dim + 255, dim + 256, 2_000):
        plan = plan_index(COMPACT, 32, True, count, dim, GIB)
        assert plan.factory == "SQ8" or len(drawn(count, 256, plan.sample_rows, 1)[1]) >= dim
        assert ("OPQ" in plan.factory) == (count >= max(512, dim + 256) or count - count // 4 >= max(dim, 384))
    with pytest.raises(ConfigurationError, match=f"with {dim} rows at least".replace("1024", "1,024")):
        plan_index("OPQ32,PQ32", 32, False, dim, dim, GIB, shape_of("OPQ32,PQ32", dim))


def test_too_few_rows_are_kept_in_eight_bits_and_it_says_so() -> None:
    plan = plan_index(COMPACT, 32, True, 300, 384, GIB)
    assert plan.factory == "SQ8"
    assert "300 rows are too few to train a product quantiser on" in plan.note


@pytest.mark.parametrize(
    ("type_", "bytes_per_vector", "memory", "sentence"),
    [
        ("hnsw", 32, GIB, r"type hnsw over 10,000,000 rows needs about 12\.65 GiB of memory to build, and 1\.00 GiB are free"),
        ("compact", 400, GIB, "takes at most 384 bytes a vector, not 400"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(type_: str, bytes_per_vector: int, memory: int, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        plan_index(type_, bytes_per_vector, True, 10_000_000, 384, memory)


def numbered(folder: Path, count: int) -> Path:
    """A corpus of so many short texts."""
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": str(n), "text": str(n)}) + "\n" for n in range(count)))
    return corpus


@pytest.mark.parametrize(
    ("type_", "sentence"),
    [
        ("quick", "faiss makes no index of 'quick' for 32 dimensions"),
        ("IVF16,PQ7", "faiss makes no index of 'IVF16,PQ7' for 32 dimensions"),
        ("IVF4096,Flat", "faiss trains IVF4096,Flat with 4,096 rows at least, and of 40 30 can train it"),
        ("IVF2,PQ8", "faiss trains IVF2,PQ8 with 256 rows at least"),
    ],
)
def test_a_wrong_factory_string_is_one_sentence(
    tmp_path: Path, type_: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_encoder", Numbered)
    corpus = numbered(tmp_path, 40)
    encoded: list[str] = []
    with pytest.raises(ConfigurationError, match=sentence):
        build_index(
            [corpus], tmp_path / "out", BuildOptions(device="cpu", type=type_), lambda stage, done, total: encoded.append(stage)
        )
    assert "encoding" not in encoded
    assert not ("faiss makes" in sentence and encoded)


@pytest.mark.parametrize(
    "factory",
    ["IVF4,Flat,RFlat", "OPQ4,IVF4,PQ4x4,RFlat", "PCA8,IVF4,SQ8,RFlat", "IVF4,Flat,Refine(SQ8)", "HNSW16,RFlat"],
)
def test_what_refines_holds_every_row_too(tmp_path: Path, factory: str) -> None:
    """Rows were added to the lists inside alone: searching what refines them ended the process (SIGSEGV)."""
    rows = clustered(1_600, 16)
    facts = make_part(rows, Plan("x", factory, 0, False, sample_rows=1_200), 1, 1, tmp_path)
    part = faiss.read_index(str(tmp_path / "faiss"))
    assert part.ntotal == faiss.downcast_index(part.refine_index).ntotal == 1_600
    engine = engine_of(np.memmap(tmp_path / "faiss", np.uint8, "r"), None, facts, "here")
    scores, found = engine.search(rows[:50], 10)
    check_results(scores, found)
    assert recall(found[:, :1].tolist(), np.arange(50)[:, None]) > 0.6
    if factory.endswith("RFlat"):
        assert np.allclose(scores, np.einsum("nkd,nd->nk", rows[found], rows[:50]), atol=1e-5)


@pytest.mark.process
@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("IDMap,IVF16,Flat", "add does not make sense with IndexIDMap"),
        ("IDMap2,Flat", "add does not make sense with IndexIDMap"),
        ("IVF4(PCA8,Flat),SQ8", "PCA matrix cannot output 8 dimensions"),
    ],
)
def test_what_faiss_takes_and_cannot_build_is_refused_before_anything_is_read(
    tmp_path: Path, factory: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_encoder", Numbered)
    corpus = numbered(tmp_path, 100)
    stages: list[str] = []
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        build_index([corpus], tmp_path / "out", BuildOptions(device="cpu", type=factory), lambda *told: stages.append(told[0]))
    assert str(caught.value).startswith(f"faiss makes no index of {factory!r} that can be built and searched: ")
    assert not stages


@pytest.mark.process
@pytest.mark.parametrize("dim", [16, 768])
@pytest.mark.parametrize(
    "factory", ["OPQ8,IVF65536,PQ8", "IVF1024,SQ8", "PCA8,HNSW32,SQ8", "RQ4x8", "OPQ4,IVF64,PQ4,RFlat", "NSG8"]
)
def test_what_faiss_builds_is_not_refused(factory: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def unhurried(*args: Any, timeout: float, **more: Any) -> subprocess.CompletedProcess[str]:
        return run(*args, timeout=120.0, **more)  # a trial that ran out of time would say nothing

    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", unhurried)
    check_factory(factory, dim)


@pytest.mark.process
def test_a_string_that_ends_the_process_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "crash"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(faiss_trial, "tied", lambda death_fd, module, *args: [str(script)])
    with pytest.raises(ConfigurationError, match=r"faiss ends the process that builds an index of 'Flat' \(SIGSEGV\)"):
        check_factory("Flat", 8)


@pytest.mark.process
def test_a_trial_that_takes_long_decides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "slow"
    script.write_text("#!/bin/sh\nexec sleep 100\n")
    script.chmod(0o755)
    monkeypatch.setattr(faiss_trial, "tied", lambda death_fd, module, *args: [str(script)])
    check_factory("Flat", 8, 0.1)


@pytest.mark.parametrize("factory", ["PCA24,HNSW16", "HNSW16,SQ8", "PCA24,HNSW16,SQ8,RFlat"])
def test_a_graph_is_built_with_our_effort_behind_a_transform_too(factory: str) -> None:
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    train(index, Numbered.rows, np.arange(500), 3)
    assert innermost(index).hnsw.efConstruction == 200


@pytest.mark.parametrize("factory", ["OPQ4,PQ4np", "PCA24,PQ4np", "PQ4np", "HNSW16,PQ4np", "OPQ4,IVF8,PQ4np"])
def test_the_recorded_seed_draws_the_codes(factory: str) -> None:
    def codes(seed: int) -> Floats:
        index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
        train(index, Numbered.rows, np.arange(600), seed, (1, 1, 1, 600))
        inner = innermost(index)
        own = faiss.downcast_index(inner.storage) if hasattr(inner, "storage") else inner
        assert own.pq.cp.seed == seed
        return np.array(faiss.vector_to_array(own.pq.centroids))

    assert np.array_equal(codes(3), codes(3))
    assert not np.array_equal(codes(3), codes(4))


_PEAK = """
import sys, threading
from pathlib import Path
import numpy as np
from ragpool.index.faiss_part import make_part
from ragpool.index.index_types import plan_index
from ragpool.index.vectors import EncodedRows

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

def look():
    while not over.wait(0.01):
        seen.append(anonymous())

folder, count, dim = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with open(folder / "f32", "wb") as file:
    for first in range(0, count, 2_000):
        np.random.default_rng(first).standard_normal((2_000, dim), dtype=np.float32).tofile(file)
plan, few = (plan_index("compact", 32, True, rows, dim, 1 << 40) for rows in (count, 1_100))
make_part(np.random.default_rng(0).standard_normal((1_100, dim), dtype=np.float32), few, 1, 2, folder)  # libraries, threads
before, seen, over = anonymous(), [0], threading.Event()
watch = threading.Thread(target=look)
watch.start()
make_part(EncodedRows(folder / "f32", count, dim).map(), plan, 1, 2, folder)
over.set()
watch.join()
print(max(seen) - before, plan.peak_bytes(count, dim))
"""


@pytest.mark.process
@pytest.mark.parametrize(("count", "dim", "most"), [(40_000, 384, 60e6), *([(20_000, 768, 125e6)] if LONG else [])])
def test_a_compact_build_takes_no_more_memory_than_is_told(count: int, dim: int, most: float, tmp_path: Path) -> None:
    """It took 265 MB for 200,000 rows of 384: three copies of the sample, seven of 16,384 rows, blocks of 65,536. From 512 values
    on faiss coded all rows that it was given at once, by way of a table of 32 KiB for each."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path), str(count), str(dim)], check=True, capture_output=True, text=True
    )
    peak, told = map(int, done.stdout.split())
    assert peak <= told
    assert told < most


@pytest.mark.process
def test_a_rotation_of_more_values_than_rows_that_train_one_is_made() -> None:
    """faiss took no more rows than it was told, and wrote beyond its memory: models of more than 4,096 values."""
    program = (
        "import numpy as np; from ragpool.index.faiss_files import from_factory; from ragpool.index.faiss_fill import train\n"
        "index = from_factory('OPQ4_400,IVF4,PQ4np', 400)\n"
        "train(index, np.random.default_rng(0).random((900, 400), np.float32), np.arange(900), 1, (1, 1, 1, 300))\n"
        "print(index.is_trained)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("factory", ["OPQ8,IVF4,PQ8x4", "OPQ8,IVF4,SQ8", "L2norm,OPQ8,PQ8x4fs"])
def test_a_rotation_wants_rows_for_a_quantiser_of_its_own(factory: str) -> None:
    with pytest.raises(ConfigurationError, match="with 256 rows at least, and of 120 90 can train it"):
        plan_index(factory, 32, False, 120, DIM, GIB, shape_of(factory, DIM))


@pytest.mark.parametrize(("factory", "copies"), [("IVF16,SQ8", 2), ("IVF16,RQ4x4", 11), ("ITQ16,IVF16,SQ8", 8), ("OPQ4,PQ4", 2)])
def test_what_trains_codes_is_told_with_its_copies(factory: str, copies: int) -> None:
    shape = shape_of(factory, DIM)
    plan = plan_index(factory, 32, False, 100_000, DIM, GIB, shape)
    assert (shape.copies, plan.copies) == (copies, copies)
    assert plan.peak_bytes(100_000, DIM) > 4 * DIM * copies * plan.sample_rows


@pytest.mark.parametrize(
    ("factory", "tried"),
    [("IVF1k,Flat", "IVF4,Flat"), ("IVF1M_HNSW32,PQ8", "IVF4_HNSW32,PQ8"), ("OPQ8,IVF2,PQ8", "OPQ8,IVF2,PQ8")],
)
def test_a_trial_takes_few_lists(factory: str, tried: str) -> None:
    assert faiss_trial.smaller(factory) == tried


# ---- calibration -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 5_000), st.integers(1, 300), st.integers(1, 6_000), st.integers(0, 2**31))
def test_held_out_rows_are_not_trained_on(count: int, held: int, sample: int, seed: int) -> None:
    out, into = drawn(count, held, sample, seed)
    assert len(into)
    assert len(out)
    assert count == 1 or not set(out.tolist()) & set(into.tolist())
    assert len(set(into.tolist())) == len(into) <= max(sample, 1)
    again = drawn(count, held, sample, seed)
    assert np.array_equal(out, again[0])
    assert np.array_equal(into, again[1])


def test_true_neighbours_are_those_of_a_sort_and_never_oneself() -> None:
    rows = clustered(500, DIM)
    own = np.array([3, 77, 499])
    products = rows[own] @ rows.T
    products[np.arange(3), own] = -np.inf
    found = true_neighbours((rows[first : first + 64] for first in range(0, 500, 64)), rows[own], own)
    assert [set(line) for line in found.tolist()] == [set(line) for line in np.argsort(-products, axis=1)[:, :10].tolist()]
    assert true_neighbours(blocks_of(rows[:4]), rows[:1], np.array([0]))[0].tolist().count(-1) == 7


def test_what_is_found_is_the_less_of_rows_and_of_points_between_them() -> None:
    rows = clustered(500, DIM)
    own = np.array([3, 77, 499])
    asked = asked_of(rows[own], own, blocks_of(rows))
    assert np.allclose(asked.queries[3:], between(rows[own]))
    assert np.allclose(between(rows[own])[1], (rows[3] + rows[77]) / 2)
    both = [exact_rows(rows, query, 11) for query in asked.queries]
    assert asked.recall(np.array(both)) == 1.0
    nothing = np.full((3, 11), -1)
    assert asked.recall(np.concatenate([both[:3], nothing])) == 0.0
    assert asked.recall(np.concatenate([nothing, both[3:]])) == 0.0


def test_a_graph_finds_what_is_not_in_it(tmp_path: Path) -> None:
    """Points between rows, as questions are, and not the rows that a graph leads to."""
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((4_000, 48)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    facts = make_part(rows, Plan(HNSW, "HNSW32,SQfp16", 0, False, sample_rows=256), 1, 1, tmp_path)
    engine = engine_of(np.memmap(tmp_path / "faiss", np.uint8, "r"), None, facts, "here")
    queries = between(rows[rng.integers(0, len(rows), 200)])
    truth = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    assert recall(engine.search(queries, 10)[1].tolist(), truth) >= 0.98


def exact_rows(rows: Floats, query: Floats, k: int) -> list[int]:
    return [int(row) for row in np.argsort(-(rows @ query), kind="stable")[:k]]


def test_the_cheapest_that_finds_enough_is_taken() -> None:
    tries = [Tried(1, 16, 0.9, 1.0), Tried(4, 16, 0.996, 4.0), Tried(2, 64, 0.997, 3.0), Tried(8, 64, 1.0, 9.0)]
    assert cheapest(tries) == tries[2]
    assert cheapest(tries, 0.998) == tries[3]
    assert cheapest(tries[:1]) == tries[0]
    assert efforts(12) == [1, 2, 4, 8, 12]
    assert efforts(1) == [1]


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_the_engine_is_the_one_for_the_type(build: Callable[..., Built]) -> None:
    with open_index(build("hnsw").path) as index:
        with pytest.raises(ConfigurationError, match="of type 'hnsw', which only the engine faiss searches"):
            load_engine(index, "cpu", "exact")
        if not torch.cuda.is_available():
            with pytest.raises(DeviceUnavailable, match="there is no device cuda:0 here"):
                load_engine(index, "cuda:0")
        engine: Engine = load_engine(index, "cpu", "faiss")
        assert engine.name == "faiss"


def transformed() -> Any:
    """A rotation before an inverted file, as a compact index has it."""
    index = faiss.index_factory(DIM, "RR32,IVF16,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(Numbered.rows)
    index.add(Numbered.rows)
    return index


def cloned(original: Any, parts: int) -> Any:
    """`original` as faiss' cloner puts it on so many CUDA devices: where they are several, the shards are behind the rotation."""
    if parts == 1:
        return faiss.clone_index(original)
    shards = faiss.IndexShards(DIM, False, False)
    turned = original.chain.at(0).apply(Numbered.rows)
    for number in range(parts):
        shard = faiss.clone_index(faiss.downcast_index(original.index))
        shard.reset()
        own = np.arange(number, COUNT, parts)
        shard.add_with_ids(turned[own], own)
        shards.add_shard(shard)
    whole = faiss.IndexPreTransform(original.chain.at(0), shards)
    whole.referenced_objects = [original, shards]
    return whole


@pytest.mark.parametrize("parts", [1, 3])
def test_the_effort_reaches_a_clone_behind_a_transform_and_in_shards(parts: int) -> None:
    original, facts, queries = transformed(), SearchFacts(effort=12), near(100)
    here = FaissPartEngine(original, facts, None)
    there = FaissPartEngine(cloned(original, parts), facts, None, "cuda:0", 2_048, original)
    for k in (1, 10, 2_000):  # the last one wants every list
        assert (there.search(queries, k)[1] == here.search(queries, k)[1]).all()
    assert recall(there.search(queries, 10)[1].tolist(), exact(queries, 10)) >= 0.99


def test_a_clone_visits_no_more_lists_than_a_device_can() -> None:
    original = transformed()
    capped = FaissPartEngine(original, SearchFacts(effort=12), None, "cuda:0", 4, original)
    capped.search(near(5), 2)
    assert faiss.extract_index_ivf(original).nprobe == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("type_", ["IVF16,SQ8", "compact"])
@pytest.mark.parametrize("gpus", [1, 2])
def test_on_a_gpu_it_finds_what_it_finds_on_the_cpu(build: Callable[..., Built], type_: str, gpus: int) -> None:
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"there are no {gpus} CUDA devices here")
    with open_index(build(type_).path) as index:
        here, there = load_engine(index, "cpu"), load_engine(index, "cuda:0", gpus=gpus)
        assert there.device == "cuda:0"
        queries = near(100)
        scores, rows = there.search(queries, 10)
        check_results(scores, rows)
        assert recall(rows.tolist(), here.search(queries, 10)[1]) >= 0.98
