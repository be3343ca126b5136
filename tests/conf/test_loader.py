"""Which place wins, what is refused, and what the operator is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.conf.loader import ENVIRONMENT, FLAGS, Loaded, idle_on_cpu, load
from ragpool.conf.mapping import from_text
from ragpool.conf.settings import KEYS, ConfigurationError, Settings


def write(folder: Path, text: str, name: str = "pool.toml") -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def refused(config_file: str | None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(config_file, environ or {}, flags or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    assert load(None, {}, {}) == Loaded(Settings(), dict.fromkeys(KEYS, "default"), ())


def test_each_place_wins_over_the_one_before(tmp_path: Path) -> None:
    file = write(tmp_path, "[pool]\nworkers = 1\nrun_dir = 'f'\n[worker]\nmodel = 'f'\nload_timeout_s = 5\n")
    environ = {"RAGPOOL_POOL__WORKERS": "2", "RAGPOOL_WORKER__MODEL": "e"}
    loaded = load(file, environ, {"pool.workers": 3, "broker.queue_max": None})
    assert [loaded.settings.value(key) for key in ("pool.workers", "worker.model", "pool.run_dir")] == [3, "e", "f"]
    assert loaded.settings.worker.load_timeout_s == 5.0
    assert loaded.sources["pool.workers"] == "flag --workers"
    assert loaded.sources["worker.model"] == "environment RAGPOOL_WORKER__MODEL"
    assert loaded.sources["pool.run_dir"] == f"file {file}"
    assert loaded.sources["broker.queue_max"] == "default"


def test_a_flag_of_zero_or_false_is_given() -> None:
    environ = {"RAGPOOL_POOL__WORKERS": "2", "RAGPOOL_INDEX__GPU": "true"}
    loaded = load(None, environ, {"pool.workers": 0, "index.gpu": False})
    assert (loaded.settings.pool.workers, loaded.settings.index.gpu) == (0, False)
    assert loaded.sources["pool.workers"] == "flag --workers"


def test_the_flags_of_the_commands_are_named_as_they_are_typed() -> None:
    assert FLAGS["pool.devices"] == "--device"
    assert FLAGS["index.path"] == "--index"
    assert FLAGS["index.bytes_per_vector"] == "--bytes-per-vector"
    assert FLAGS["broker.frontend"] == "--frontend"
    assert load(None, {}, {"pool.devices": "cpu,cpu"}).settings.pool.devices == ("cpu", "cpu")
    assert load(None, {}, {"pool.devices": ("cpu",)}).sources["pool.devices"] == "flag --device"


@pytest.mark.parametrize(
    ("text", "meant"), [("true", True), ("1", True), (" YES ", True), ("on", True), ("false", False), ("0", False), ("No", False)]
)
def test_truth_in_the_environment(text: str, meant: bool) -> None:
    assert load(None, {"RAGPOOL_BROKER__INSECURE": text}, {}).settings.broker.insecure is meant


def test_lists_and_numbers_in_the_environment() -> None:
    environ = {"RAGPOOL_POOL__DEVICES": "cuda:0, cuda:1", "RAGPOOL_BROKER__DEAD_AFTER_S": "12.5", "RAGPOOL_INDEX__PATH": "42"}
    settings = load(None, environ, {}).settings
    assert settings.pool.devices == ("cuda:0", "cuda:1")
    assert settings.broker.dead_after_s == 12.5
    assert settings.index.path == "42"


@pytest.mark.parametrize(("value", "said"), [("many", "'many'"), ("", "''"), ("2.5", "'2.5'"), ("-1", "-1")])
def test_a_wrong_environment_value_names_its_variable(value: str, said: str) -> None:
    assert refused(None, {"RAGPOOL_POOL__WORKERS": value}).startswith(
        f"pool.workers = {said} (environment RAGPOOL_POOL__WORKERS): must be a whole number"
    )


def test_variables_that_are_no_settings_are_left_alone() -> None:
    loaded = load(
        None, {"RAGPOOL_BROKER": "tcp://elsewhere:1", "RAGPOOL_": "", "PATH": "/bin", "XRAGPOOL_POOL__WORKERS": "9"}, {}
    )
    assert loaded.settings == Settings()
    assert loaded.warnings == ()


def test_one_underscore_too_few_is_a_warning() -> None:
    (warning,) = load(None, {"RAGPOOL_POOL_WORKERS": "3"}, {}).warnings
    assert "RAGPOOL_POOL__WORKERS" in warning


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("RAGPOOL_POOL__WORKER", "RAGPOOL_POOL__WORKERS"),
        ("RAGPOOL_BROKR__FRONTEND", "RAGPOOL_BROKER__FRONTEND"),
        ("RAGPOOL_pool__workers", "RAGPOOL_POOL__WORKERS"),
    ],
)
def test_an_unknown_variable_names_the_nearest(name: str, near: str) -> None:
    said = refused(None, {name: "1"})
    assert said == f"unknown environment variable {name}: the nearest known one is {near}"


@pytest.mark.parametrize(
    ("text", "unknown", "near"),
    [
        ("[pool]\nworker = 3", "pool.worker", "pool.workers"),
        ("[pool]\ndevice = ['cpu']", "pool.device", "pool.devices"),
        ("[brokr]\nfrontend = ''", "brokr", "[broker]"),
        ("[broker]\nworkers = 3", "broker.workers", "pool.workers"),
        ("[worker]\nbackoff_min_s = 3", "worker.backoff_min_s", "supervisor.backoff_min_s"),
        ("[worker]\nworkers = 3", "worker.workers", "pool.workers"),
        ("workers = 3", "workers", "pool.workers"),
        ("'pool.workers' = 3", "pool.workers", "pool.workers"),
        ("[index.hnsw]\nm = 3", "index.hnsw", "index."),
        ("[broker]\nheartbeat = 1", "broker.heartbeat", "broker.heartbeat_interval_s"),
    ],
)
def test_an_unknown_key_in_a_file_names_the_nearest(tmp_path: Path, text: str, unknown: str, near: str) -> None:
    file = write(tmp_path, text)
    said = refused(file)
    head, _, tail = said.partition("nearest known")
    assert f"'{unknown}'" in head
    assert file in head
    assert near in tail


def test_an_unknown_flag_is_a_defect_that_is_told() -> None:
    assert "pool.workers" in refused(None, flags={"pool.worker": 3})


@pytest.mark.parametrize("text", ["pool = 3", "[[pool]]\nworkers = 3"])
def test_a_section_that_is_no_table(tmp_path: Path, text: str) -> None:
    assert "written as [pool]" in refused(write(tmp_path, text))


def test_a_wrong_value_in_a_file_names_the_file_and_toml_has_real_types(tmp_path: Path) -> None:
    file = write(tmp_path, "[index]\ngpu = 'true'\n")
    assert refused(file) == f"index.gpu = 'true' (file {file}): must be true or false"
    file = write(tmp_path, "[pool.workers]\nx = 1\n")
    assert refused(file).startswith("pool.workers = {'x': 1}")


def test_contradictions_name_both_sources(tmp_path: Path) -> None:
    file = write(tmp_path, "[broker]\nsuspect_after_s = 20\n")
    said = refused(file)
    assert f"broker.suspect_after_s = 20.0 (file {file})" in said
    assert "broker.dead_after_s = 10.0 (default)" in said


@pytest.mark.parametrize(
    ("text", "line"),
    [("[pool]\nworkers = 2\nrun_dir = oops\n", 3), ("[pool]\nworkers = 1\nworkers = 2\n", 3), ("[pool]\n\nrun_dir = '''x", 3)],
)
def test_broken_toml_names_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    file = write(tmp_path, text)
    assert refused(file).startswith(f"{file}, line {line}, ")


@pytest.mark.parametrize("text", ["[pool]\nrun_dir = " + "[" * 100_000, "[pool]\nworkers = " + "9" * 5000])
def test_hostile_toml_is_a_sentence(tmp_path: Path, text: str) -> None:
    assert len(refused(write(tmp_path, text))) < 500


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.toml")
    assert refused(missing) == f"cannot read the configuration file {missing}: No such file or directory"
    assert "Is a directory" in refused(str(tmp_path))
    assert "cannot read" in refused("a\0b")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"[pool]\nrun_dir = '\xff'\n")
    assert "not UTF-8: byte 18" in refused(str(binary))


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert load(write(tmp_path, "\ufeff[pool]\nworkers = 7\n"), {}, {}).settings.pool.workers == 7


@pytest.mark.parametrize("name", ["old.json", "old.conf"])
def test_the_older_json_is_a_file_like_any_other(tmp_path: Path, name: str) -> None:
    document = {"rag": {"config": {"num_rag_workers": "4", "rag_model_name": "m", "cache": 1}}}
    file = write(tmp_path, json.dumps(document), name)
    loaded = load(file, {}, {"worker.model": "mine"})
    assert loaded.settings.pool.workers == 4
    assert loaded.sources["pool.workers"] == f"file {file}, num_rag_workers"
    assert loaded.sources["worker.model"] == "flag --model"
    assert loaded.warnings == (f"file {file}: these keys do nothing here: cache",)


def test_older_json_that_is_broken_or_something_else(tmp_path: Path) -> None:
    file = write(tmp_path, '{"rag":\n{"config": }}', "old.json")
    assert refused(file).startswith(f"{file}, line 2, column ")
    for text in ('{"pool": {}}', '{"rag": 3}', '{"rag": {}}', '{"rag": {"config": []}}', "[]", "{}"):
        assert "older system" in refused(write(tmp_path, text, "old.json"))
    assert "too deeply" in refused(write(tmp_path, "[" * 200_000, "old.json"))
    file = write(tmp_path, '{"rag": {"config": {"num_rag_workers": "many"}}}', "old.json")
    assert refused(file).startswith(f"pool.workers = 'many' (file {file}, num_rag_workers)")


@pytest.mark.parametrize(("devices", "count"), [("cpu", 2), ("cpu,cpu", 2), ("auto", 0), ("cpu,cuda:0", 0)])
def test_gpu_settings_made_for_cpu_devices_are_a_warning(devices: str, count: int) -> None:
    made: dict[str, object] = {"pool.devices": devices, "index.gpu": True, "index.gpus_per_worker": 2}
    loaded = load(None, {}, made)
    assert len(loaded.warnings) == count
    assert load(None, {}, {"pool.devices": devices}).warnings == ()
    # What `auto` turned out to be is known only where the pool starts.
    assert len(idle_on_cpu(("cpu",), loaded.sources)) == 2


def test_an_idle_setting_is_named_with_its_source(tmp_path: Path) -> None:
    file = write(tmp_path, "[pool]\ndevices = ['cpu']\n[index]\ngpu = false\n")
    assert load(file, {}, {}).warnings == (f"index.gpu (file {file}) does nothing on cpu devices",)


@given(st.dictionaries(st.sampled_from(sorted(ENVIRONMENT)), st.text(max_size=12)))
def test_no_environment_does_anything_but_load_or_say_why(environ: dict[str, str]) -> None:
    said = None
    try:
        loaded = load(None, environ, {})
    except ConfigurationError as error:
        said = str(error)
    if said is None:
        assert {name for name in ENVIRONMENT if loaded.sources[ENVIRONMENT[name]] != "default"} == set(environ)
    else:
        assert any(name in said for name in environ)


@given(st.sampled_from(sorted(KEYS)), st.text(max_size=20))
def test_reading_text_never_raises(dotted: str, text: str) -> None:
    assert isinstance(from_text(dotted, text), bool | int | float | str)
