"""Settings out and in again: as data for a child process, as the text of `rag-broker config`, and the reference file."""

from __future__ import annotations

import json
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.conf.loader import DEFAULT, Loaded, load
from ragpool.conf.mapping import from_mapping, to_mapping
from ragpool.conf.render import reference, to_json, to_toml
from ragpool.conf.settings import KEYS, ConfigurationError, Settings

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
device_names = st.sampled_from(["cpu", "cuda", "cuda:0", "cuda:7"])
addresses = st.sampled_from(["tcp://*:1", "tcp://[::1]:65535", "ipc:///tmp/a b.sock", "tcp://host.example:80"])
seconds = st.floats(0.001, 1_000_000)
counts = st.integers(1, 10**12)


@st.composite
def all_settings(draw: st.DrawFn) -> Settings:
    beat, suspect, dead = sorted(draw(st.lists(st.floats(0.01, 1_000_000), min_size=3, max_size=3, unique=True)))
    backoffs = sorted(draw(st.lists(seconds, min_size=2, max_size=2)))
    query, frame, queue = sorted(draw(st.lists(st.integers(64 * 1024, 2**30), min_size=3, max_size=3)))
    default_top_k, top_k_max = sorted(draw(st.lists(counts, min_size=2, max_size=2)))
    drawn: dict[str, dict[str, Any]] = {
        "pool": {
            "devices": draw(st.lists(device_names, min_size=1) | st.just(["auto"])),
            "workers": draw(st.integers(0, 1024)),
            "run_dir": draw(words),
        },
        "index": {"path": draw(words), "gpu": draw(st.booleans()), "type": draw(words.filter(bool))},
        "worker": {"model": draw(words), "dtype": draw(st.sampled_from(["auto", "int8"])), "load_timeout_s": draw(seconds)},
        "broker": {
            "backend": draw(addresses),
            "queue_max_bytes": queue,
            "heartbeat_interval_s": beat,
            "suspect_after_s": suspect,
            "dead_after_s": dead,
            "default_top_k": default_top_k,
        },
        "supervisor": {"backoff_min_s": backoffs[0], "backoff_max_s": backoffs[1], "backoff_jitter": draw(st.floats(0, 1))},
        "limits": {"frame_max_bytes": frame, "query_max_bytes": query, "top_k_max": top_k_max},
    }
    return from_mapping(drawn, "drawn")


@given(all_settings())
def test_settings_survive_the_way_to_a_child_process(settings: Settings) -> None:
    assert from_mapping(json.loads(json.dumps(to_mapping(settings))), "the parent") == settings


@given(all_settings(), words)
def test_what_config_prints_loads_again(settings: Settings, place: str) -> None:
    text = to_toml(Loaded(settings, dict.fromkeys(KEYS, f"file {place}"), ()))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "again.toml"
        file.write_text(text, encoding="utf-8")
        again = load(str(file), {}, {})
    assert again.settings == settings
    assert DEFAULT not in again.sources.values()


def test_what_config_prints_says_where_each_value_came_from() -> None:
    loaded = load(None, {"RAGPOOL_POOL__WORKERS": "3"}, {"worker.model": 'a "b"\n'})
    lines = to_toml(loaded).splitlines()
    (workers,) = [line for line in lines if line.startswith("workers = 3 ")]
    assert workers.endswith("  # environment RAGPOOL_POOL__WORKERS")
    assert any(line.startswith(r'model = "a \"b\"\n" ') and line.endswith("# flag --model") for line in lines)
    assert [line for line in lines if line.startswith("[")] == [f"[{section}]" for section in to_mapping(loaded.settings)]


def test_config_as_json() -> None:
    document = json.loads(json.dumps(to_json(load(None, {}, {"pool.devices": "cpu"}))))
    assert document["pool"]["devices"] == {"value": ["cpu"], "source": "flag --device"}
    assert {f"{section}.{key}" for section, table in document.items() for key in table} == set(KEYS)


def test_the_reference_file_is_what_the_settings_say() -> None:
    text = files("ragpool.conf").joinpath("default.toml").read_text(encoding="utf-8")
    assert text == reference(), "write render.reference() to conf/default.toml"
    assert all(f"# {key.doc}\n{key.name} = " in text for key in KEYS.values())


def test_the_reference_file_loads_as_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "copied.toml"
    file.write_text(reference(), encoding="utf-8")
    loaded = load(str(file), {}, {})
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {f"file {file}"}
    assert loaded.warnings == ()


def test_a_mapping_that_is_wrong_names_its_source() -> None:
    with pytest.raises(ConfigurationError, match=r"pool\.workers = 'x' \(the parent\)"):
        from_mapping({"pool": {"workers": "x"}}, "the parent")
    with pytest.raises(ConfigurationError, match=r"unknown setting 'pool\.works' \(the parent\).*pool\.workers"):
        from_mapping({"pool": {"works": 1}}, "the parent")
