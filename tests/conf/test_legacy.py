"""The older system's JSON: every key that means something, and one warning for those that do not."""

from __future__ import annotations

from typing import Any

import pytest
from ragpool.conf.errors import ConfigurationError
from ragpool.conf.legacy import Translation, translate
from ragpool.conf.mapping import from_mapping


def translated(config: dict[str, Any], **rag: Any) -> Translation:
    return translate({"rag": {"config": config, **rag}, "llm": {"not": "ours"}}, "file old.json")


def test_a_whole_file_of_the_older_system() -> None:
    translation = translated(
        {
            "num_rag_workers": 8,
            "embedding_devices": "cuda:0,cuda:1",
            "rag_index_path": "/data/index",
            "rag_kb_path": "/data/kb.jsonl",
            "rag_model_name": "intfloat/e5-base-v2",
            "use_gpu_index": "yes",
            "gpu_parallel_degree": "2",
            "use_compact": "true",
            "target_bytes_per_vector": 48,
            "default_top_k": 3,
            "server_start_retries": 900,
        }
    )
    assert translation.warnings == ()
    settings = from_mapping(translation.mapping, "file old.json")
    assert (settings.pool.workers, settings.pool.devices) == (8, ("cuda:0", "cuda:1"))
    index = settings.index
    assert (index.path, index.corpus, index.gpu, index.gpus_per_worker) == ("/data/index", "/data/kb.jsonl", True, 2)
    assert (index.type, index.bytes_per_vector) == ("compact", 48)
    assert (settings.worker.model, settings.worker.load_timeout_s) == ("intfloat/e5-base-v2", 900.0)
    assert settings.broker.default_top_k == 3


@pytest.mark.parametrize(
    ("config", "devices", "origin"),
    [
        ({"embedding_devices": ["cuda:0", "cuda:1"]}, ("cuda:0", "cuda:1"), "embedding_devices"),
        ({"embedding_device": "cuda:3"}, ("cuda:3",), "embedding_device"),
        ({"embedding_devices": None, "embedding_device": "cpu"}, ("cpu",), "embedding_device"),
        ({"embedding_devices": [], "embedding_device": "cpu"}, ("cpu",), "embedding_device"),
    ],
)
def test_devices(config: dict[str, Any], devices: tuple[str, ...], origin: str) -> None:
    translation = translated(config)
    assert from_mapping(translation.mapping, "x").pool.devices == devices
    assert translation.origins == {"pool.devices": origin}
    assert translation.warnings == ()


def test_of_two_device_keys_the_one_not_used_is_named() -> None:
    translation = translated({"embedding_device": "cpu", "embedding_devices": "cuda:0"})
    assert from_mapping(translation.mapping, "x").pool.devices == ("cuda:0",)
    assert translation.warnings == ("file old.json: these keys do nothing here: embedding_device",)


@pytest.mark.parametrize(
    ("given", "meant"),
    [(True, True), ("true", True), ("1", True), ("yes", True), (1, True), (False, False), ("no", False), (0, False)],
)
def test_truth_is_spelled_in_many_ways(given: object, meant: bool) -> None:
    translation = translated({"use_gpu_index": given, "use_compact": given})
    index = from_mapping(translation.mapping, "x").index
    assert index.gpu is meant
    assert index.type == ("compact" if meant else "auto")


@pytest.mark.parametrize("key", ["use_gpu_index", "use_compact"])
@pytest.mark.parametrize("value", ["maybe", 2, ["true"]])
def test_truth_that_is_none_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match="must be true or false"):
        from_mapping(translated({key: value}).mapping, "x")


def test_keys_that_do_nothing_are_named_in_one_warning() -> None:
    translation = translated({"use_fp16": True, "cache_size": 3, "enable_restart": False, "num_rag_workers": 1}, enabled=True)
    assert translation.warnings == (
        "file old.json: these keys do nothing here: rag.enabled, use_fp16, cache_size, enable_restart",
    )
    assert translation.mapping == {"pool": {"workers": 1}}


def test_the_http_port_is_named() -> None:
    (warning,) = translated({"rag_service_port": 8001}).warnings
    assert "rag_service_port = 8001" in warning


def test_what_was_not_set_there_is_not_set_here() -> None:
    config = {"rag_index_path": "", "num_rag_workers": None, "rag_service_port": None, "use_compact": None, "unknown": None}
    assert translated(config) == Translation({}, {}, ())


def test_the_size_of_a_vector_alone_does_not_make_an_index_compact() -> None:
    assert translated({"target_bytes_per_vector": 64}).mapping == {"index": {"bytes_per_vector": 64}}
