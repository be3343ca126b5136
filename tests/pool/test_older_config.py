"""A configuration of the older system starts a pool: what it has no index for is built, and served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pools import Pool, run_cli
from ragpool.broker.cli_start import of_another_type, what_to_build
from ragpool.client import Client
from ragpool.conf.loader import load
from ragpool.conf.settings import Settings
from ragpool.index.manifest import read_manifest

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

KNOWLEDGE = [
    {"id": "moon", "contents": "Moon\nThe Moon is the only natural satellite of the Earth."},
    {"id": "hamlet", "contents": "Hamlet\nHamlet is a tragedy that William Shakespeare wrote around 1600."},
    {"id": "tea", "contents": "Tea\nTea is a drink made by pouring hot water over cured leaves."},
]


def older(tmp_path: Path, **config: object) -> Path:
    (tmp_path / "kb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in KNOWLEDGE))
    given = {
        "num_rag_workers": 1,
        "embedding_devices": "cpu",
        "rag_kb_path": str(tmp_path / "kb.jsonl"),
        "rag_index_path": str(tmp_path / "index"),
        "rag_model_name": "all-MiniLM-L6-v2",
        "use_gpu_index": "false",
        "gpu_parallel_degree": 1,
        "use_compact": "false",
        "target_bytes_per_vector": 32,
        "default_top_k": 2,
        **config,
    }
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"rag": {"config": given}}))
    return path


def test_the_missing_index_is_built_and_served(tmp_path: Path) -> None:
    flags = ("--config", str(older(tmp_path)))
    pool = Pool(tmp_path, *flags)
    pool.wait_ready()
    assert f"there is no index {tmp_path / 'index'} yet: building it from {tmp_path / 'kb.jsonl'}" in pool.output
    assert "encoding 3 of 3" in pool.output
    with Client(pool.url) as client:
        hits = client.search("who wrote hamlet")
    assert hits[0].id == "hamlet"
    assert len(hits) == 2
    assert hits[0].title == "Hamlet"
    assert pool.stop() == 0
    (tmp_path / "again").mkdir()
    again = Pool(tmp_path / "again", "--config", str(older(tmp_path, use_compact="true", target_bytes_per_vector=24)))
    again.wait_ready()
    assert "building" not in again.output
    assert f"warning: index.type = 'compact' (file {tmp_path / 'old.json'}, use_compact) is for builds: " in again.output
    assert again.stop() == 0


def test_a_compact_index_is_built_and_served(tmp_path: Path) -> None:
    """With as many passages as a product quantiser needs, and vectors of the size that was asked for."""
    config = older(tmp_path, use_compact="true", target_bytes_per_vector=24, use_gpu_index="true")
    with (tmp_path / "kb.jsonl").open("a") as file:
        file.writelines(json.dumps({"id": f"n{n}", "contents": f"Number {n}\n{n} follows {n - 1}"}) + "\n" for n in range(600))
    pool = Pool(tmp_path, "--config", str(config))
    pool.wait_ready()
    assert "the index will be of type compact (OPQ24_384,IVF" in pool.output
    with Client(pool.url) as client:
        assert client.search("who wrote hamlet")[0].id == "hamlet"
    assert pool.stop() == 0
    manifest = read_manifest(tmp_path / "index")
    assert (manifest.type, manifest.count) == ("compact", 603)
    assert manifest.factory.endswith(",PQ24np")
    assert manifest.search.candidates > 0


@pytest.mark.parametrize(
    ("config", "warned"),
    [
        ({"use_compact": "true", "target_bytes_per_vector": 24}, True),
        ({"use_compact": "false"}, False),
    ],
)
def test_a_type_that_the_index_is_not_of_is_named(tmp_path: Path, config: dict[str, object], warned: bool) -> None:
    path = older(tmp_path, **config)
    told = of_another_type(load(str(path), {}, {}), "wiki", "flat")
    sentence = f"index.type = 'compact' (file {path}, use_compact) is for builds: wiki is of type flat, and is served as that"
    assert told == ((sentence,) if warned else ())
    assert of_another_type(load(str(path), {}, {}), "wiki", "compact") == ()


@pytest.mark.parametrize("type_", ["auto", "flat", "hnsw", "compact", "IVF64,SQ8"])
def test_the_build_is_told_the_size_of_a_vector_where_that_does_something(type_: str) -> None:
    settings = Settings()
    told = what_to_build(replace(settings, index=replace(settings.index, type=type_)), ("cpu",))
    assert ("--bytes-per-vector" in told) == (type_ in ("auto", "compact"))


@pytest.mark.parametrize(
    ("devices", "gpu", "searched"),
    [
        (("cuda:0", "cuda:1"), True, "cuda"),
        (("cuda:0",), False, "cpu"),
        (("cpu",), True, "cpu"),
        (("cpu", "cuda:0"), True, "cuda"),
    ],
)
def test_the_build_is_told_what_will_search_it(devices: tuple[str, ...], gpu: bool, searched: str) -> None:
    settings = Settings()
    settings = replace(settings, index=replace(settings.index, gpu=gpu, type="auto"))
    assert what_to_build(settings, devices)[-2:] == ("--for", searched)


def test_the_build_computes_as_the_workers_do(tmp_path: Path) -> None:
    pool = Pool(
        tmp_path, "--config", str(older(tmp_path)), env={"RAGPOOL_WORKER__DTYPE": "int8", "RAGPOOL_WORKER__BACKEND": "onnx"}
    )
    pool.wait_ready()
    assert pool.stop() == 0
    manifest = read_manifest(tmp_path / "index")
    assert (manifest.dtype, manifest.tools["backend"]) == ("int8", "onnx")


def test_a_bad_row_of_the_corpus_ends_the_start(tmp_path: Path) -> None:
    config = older(tmp_path)
    with (tmp_path / "kb.jsonl").open("a") as file:
        file.write("{\n")
    started = run_cli("rag-broker", "start", "--config", str(config), "--run-dir", str(tmp_path / "run"))
    assert started.returncode == 2
    assert f"{tmp_path / 'kb.jsonl'}, line 4: it is not JSON" in started.stderr
    assert "rag-broker: the index could not be built" in started.stderr
    assert not (tmp_path / "index").exists()


def test_a_corpus_without_a_place_for_its_index(tmp_path: Path) -> None:
    config = older(tmp_path, rag_index_path="")
    started = run_cli("rag-broker", "start", "--config", str(config), "--run-dir", str(tmp_path / "run"))
    assert started.returncode == 2
    assert "index.path (rag_index_path) names no folder" in started.stderr
