"""What a setting may hold, and what is said when it holds something else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ragpool.conf.settings import (
    KEYS,
    SECTIONS,
    BrokerSettings,
    ConfigurationError,
    LimitSettings,
    PoolSettings,
    Settings,
    SupervisorSettings,
    WorkerSettings,
)

FOUND_DEFAULTS = {
    "pool.devices": ("auto",),
    "pool.workers": 0,
    "index.gpu": True,
    "worker.max_batch_tokens": 16384,
    "worker.load_timeout_s": 600.0,
    "broker.frontend": "tcp://127.0.0.1:5555",
    "broker.queue_max_bytes": 256 * 1024 * 1024,
    "supervisor.quarantine_probe_s": 300.0,
    "limits.frame_max_bytes": 8 * 1024 * 1024,
    "limits.query_max_bytes": 32 * 1024,
    "limits.top_k_max": 1000,
}


@pytest.mark.parametrize(("key", "value"), FOUND_DEFAULTS.items())
def test_the_defaults_are_the_published_ones(key: str, value: object) -> None:
    assert Settings().value(key) == value


def test_every_setting_has_a_doc_and_an_immutable_home() -> None:
    assert list(SECTIONS) == [item.name for item in dataclasses.fields(Settings)]
    for dotted, key in KEYS.items():
        assert key.doc
        assert key.allowed
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(getattr(Settings(), key.section), key.name, key.default)
        assert Settings().value(dotted) == key.default


REFUSED: list[tuple[str, Any]] = [
    ("pool.workers", -1),
    ("pool.workers", True),
    ("pool.workers", 2.0),
    ("pool.workers", "2"),
    ("pool.workers", 10**30),
    ("pool.devices", ()),
    ("pool.devices", "gpu"),
    ("pool.devices", ("cuda:01",)),
    ("pool.devices", ("auto", "cpu")),
    ("pool.devices", ("cpu", 3)),
    ("pool.devices", None),
    ("pool.run_dir", "a\0b"),
    ("index.path", "\udcff"),
    ("index.path", None),
    ("index.gpu", 1),
    ("index.gpu", "true"),
    ("index.gpus_per_worker", 0),
    ("index.type", ""),
    ("index.engine", "Exact"),
    ("worker.dtype", "fp16"),
    ("worker.backend", None),
    ("worker.load_timeout_s", 0),
    ("worker.load_timeout_s", float("nan")),
    ("worker.load_timeout_s", float("inf")),
    ("worker.load_timeout_s", True),
    ("worker.load_timeout_s", "600"),
    ("broker.frontend", ""),
    ("broker.frontend", "127.0.0.1:5555"),
    ("broker.frontend", "tcp://127.0.0.1"),
    ("broker.frontend", "tcp://127.0.0.1:0"),
    ("broker.frontend", "tcp://127.0.0.1:65536"),
    ("broker.backend", "udp://127.0.0.1:1"),
    ("broker.backend", "ipc://"),
    ("broker.queue_max", 0),
    ("supervisor.backoff_jitter", 1.5),
    ("limits.frame_max_bytes", 1),
]


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_a_value_that_is_not_allowed_is_named_with_what_is(key: str, value: object) -> None:
    section, _, name = key.partition(".")
    with pytest.raises(ConfigurationError) as caught:
        SECTIONS[section](**{name: value})
    said = str(caught.value)
    assert said.startswith(f"{key} = ")
    assert f"must be {KEYS[key].allowed}" in said
    assert "\n" not in said


def test_an_endless_value_is_cut_in_the_sentence() -> None:
    with pytest.raises(ConfigurationError) as caught:
        WorkerSettings(dtype="x" * 10_000)
    assert len(str(caught.value)) < 300


def test_the_reason_of_a_bad_address_is_told() -> None:
    with pytest.raises(ConfigurationError, match="ports go from 1 to 65535"):
        BrokerSettings(frontend="tcp://127.0.0.1:70000")


def test_values_are_brought_to_their_one_form() -> None:
    given: Any = ["cuda:0", "cuda:1"]
    assert PoolSettings(devices=given).devices == ("cuda:0", "cuda:1")
    given = "cuda:0, cuda:1"
    assert PoolSettings(devices=given).devices == ("cuda:0", "cuda:1")
    assert type(WorkerSettings(load_timeout_s=5).load_timeout_s) is float


@pytest.mark.parametrize("devices", [("cpu",), ("cuda",), ("cuda:0", "cuda:15"), ("auto",), ("cpu", "cuda:0"), ("cpu", "cpu")])
def test_devices_that_are_allowed(devices: tuple[str, ...]) -> None:
    assert PoolSettings(devices=devices).devices == devices


CONTRADICTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"broker": BrokerSettings(suspect_after_s=10.0)}, "broker.suspect_after_s = 10.0", "broker.dead_after_s = 10.0"),
    ({"broker": BrokerSettings(heartbeat_interval_s=3)}, "broker.heartbeat_interval_s = 3.0", "broker.suspect_after_s = 3.0"),
    ({"broker": BrokerSettings(default_top_k=1001)}, "broker.default_top_k = 1001", "limits.top_k_max = 1000"),
    ({"supervisor": SupervisorSettings(backoff_min_s=31)}, "backoff_min_s = 31.0", "backoff_max_s = 30.0"),
    ({"limits": LimitSettings(query_max_bytes=2**24)}, "limits.query_max_bytes", "limits.frame_max_bytes"),
    ({"broker": BrokerSettings(queue_max_bytes=100)}, "limits.frame_max_bytes", "broker.queue_max_bytes = 100"),
    ({"broker": BrokerSettings(backend="tcp://127.0.0.1:5555")}, "broker.frontend", "broker.backend"),
]


@pytest.mark.parametrize(("sections", "one", "other"), CONTRADICTIONS)
def test_two_values_that_contradict_each_other_are_both_named(sections: dict[str, Any], one: str, other: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(**sections)
    assert one in str(caught.value)
    assert other in str(caught.value)


def test_equal_bounds_are_allowed_where_they_mean_something() -> None:
    Settings(supervisor=SupervisorSettings(backoff_min_s=2, backoff_max_s=2), broker=BrokerSettings(default_top_k=1000))
