"""Calibration chooses speed, is remembered by what it depends on, and costs nothing but speed when it fails."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ragpool.index import calibrate as measuring
from ragpool.index import calibration as remembering
from ragpool.index.calibrate import GOOD_ENOUGH, calibrate, choose, measure, sample_queries, with_engine
from ragpool.index.calibration import RECORDS, Choice, calibrating, preferred, recall, remember, setup
from ragpool.index.encoder import SentenceEncoder
from ragpool.index.runtimes import BACKENDS
from ragpool.worker.loading import BATCH_ON_CPU, BATCH_ON_CUDA, best_batch

os.environ["HF_HUB_OFFLINE"] = "1"

WANTED = {"model": "ab", "device": "cpu", "threads": 1}
CHOICE = Choice("onnx", 8, {"onnx 8": 3000.0, "torch 8": 2000.0})


def test_what_was_found_is_remembered_for_that_setup_alone(tmp_path: Path) -> None:
    assert recall(WANTED, tmp_path) is None
    assert remember(WANTED, CHOICE, tmp_path)
    assert recall(WANTED, tmp_path) == CHOICE
    assert recall({**WANTED, "threads": 2}, tmp_path) is None
    other = Choice("torch", 16, {})
    assert remember({**WANTED, "threads": 2}, other, tmp_path)
    assert (recall(WANTED, tmp_path), recall({**WANTED, "threads": 2}, tmp_path)) == (CHOICE, other)


def test_a_setup_names_all_that_speed_depends_on() -> None:
    one = setup("ab", "cpu", "float32", "auto", 1)
    assert {"generation", "processor", "cores", "threads", "versions", "model", "dtype", "backend", "device"} == set(one)
    assert one["versions"]["torch"]
    others = [setup("cd", "cpu", "float32", "auto", 1), setup("ab", "cpu", "bfloat16", "auto", 1),
              setup("ab", "cuda:1", "float32", "auto", 1), setup("ab", "cpu", "float32", "onnx", 1),
              setup("ab", "cpu", "float32", "auto", 2)]  # fmt: skip
    assert all(other != one for other in others)


def test_the_faiss_of_cuda_belongs_to_the_setup_of_cuda_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "versions", lambda names=("torch",): dict.fromkeys(names, "1.0"))
    assert setup("ab", "cuda:0", "float32", "auto", 1)["versions"] == {"torch": "1.0", "faiss-gpu": "1.0"}
    assert setup("ab", "cpu", "float32", "auto", 1)["versions"] == {"torch": "1.0"}


def driver(folder: Path, *models: str) -> Path:
    """What NVIDIA's driver tells of GPUs with these names, in the order of the bus."""
    for number, model in enumerate(models):
        place = folder / f"0000:{number:02x}:00.0"
        place.mkdir(parents=True)
        (place / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 30\nGPU UUID: \t GPU-{number}\n")
    return folder


def processors(*devices: str) -> list[str]:
    return [setup("ab", device, "float16", "auto", 1)["processor"] for device in devices]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing of CUDA devices."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_gpus_of_one_name_share_what_was_measured(tmp_path: Path, plain: pytest.MonkeyPatch) -> None:
    plain.setattr(remembering, "_DRIVER", driver(tmp_path, "NVIDIA H100", "NVIDIA H100"))
    plain.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert processors("cuda:0", "cuda:1", "cuda") == ["NVIDIA H100, NVIDIA H100"] * 3


@pytest.mark.parametrize(("models", "visible"), [(("NVIDIA T4", "NVIDIA H100"), ""), ((), ""), (("NVIDIA H100",), "MIG-1,MIG-2")])
def test_where_gpus_may_differ_each_is_measured_for_itself(
    tmp_path: Path, plain: pytest.MonkeyPatch, models: tuple[str, ...], visible: str
) -> None:
    plain.setattr(remembering, "_DRIVER", driver(tmp_path, *models))
    plain.setenv("CUDA_VISIBLE_DEVICES", visible)
    first, second = processors("cuda:0", "cuda:1")
    assert first != second
    assert processors("cuda", "cuda:0") == [first, first], "cuda is what a worker calls cuda:0"
    for name, value in (("CUDA_VISIBLE_DEVICES", "1"), ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")):
        with plain.context() as changed:
            changed.setenv(name, value)
            assert processors("cuda:0") != [first], "it may be another one"


def test_what_is_measured_on_a_cpu_knows_nothing_of_gpus(tmp_path: Path, plain: pytest.MonkeyPatch) -> None:
    before = processors("cpu")
    plain.setattr(remembering, "_DRIVER", driver(tmp_path, "NVIDIA T4", "NVIDIA H100"))
    plain.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert processors("cpu") == before


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", '{"KEY": 7}', '{"KEY": {"backend": "magic", "max_batch": 8, "measured": {}}}',
     '{"KEY": {"backend": "onnx", "max_batch": 0, "measured": {}}}', '{"KEY": {"backend": "onnx", "max_batch": 8}}',
     '{"KEY": {"backend": "onnx", "max_batch": "8", "measured": {}}}', "[" * 10_000,
     '{"KEY": {"backend": "onnx", "max_batch": 8, "measured": {}}}',
     '{"KEY": {"backend": "onnx", "max_batch": true, "measured": {}, "engine": "", "searched": {}}}',
     '{"KEY": {"backend": "onnx", "max_batch": 8, "measured": {"onnx 8": true}, "engine": "", "searched": {}}}',
     '{"KEY": {"backend": "onnx", "max_batch": 8, "measured": {"onnx 8": 1' + "0" * 400 + '}, "engine": "", "searched": {}}}',
     '{"KEY": {"backend": "onnx", "max_batch": 8, "measured": {}, "engine": "quick", "searched": {}}}',
     '{"KEY": {"backend": "onnx", "max_batch": 8, "measured": {}, "engine": ["faiss"], "searched": {}}}',
     '{"KEY": {"backend": "onnx", "max_batch": 8, "measured": {}, "engine": "faiss", "searched": {"faiss 1": "0"}}}'],
)  # fmt: skip
def test_a_damaged_record_is_none_and_can_be_replaced(tmp_path: Path, damage: str) -> None:
    remember(WANTED, CHOICE, tmp_path)
    path = tmp_path / RECORDS
    (key,) = json.loads(path.read_text())
    path.write_text(damage.replace("KEY", key))
    assert recall(WANTED, tmp_path) is None
    assert remember(WANTED, CHOICE, tmp_path)
    assert recall(WANTED, tmp_path) == CHOICE


def test_damage_and_a_folder_that_cannot_be_written_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / RECORDS).write_text("{")
    assert recall(WANTED, tmp_path) is None
    assert "cannot be read" in caplog.text
    assert "defaults are used" in caplog.text
    assert not remember(WANTED, CHOICE, tmp_path / "no" / "such")
    assert "cannot be kept" in caplog.text


rates = st.dictionaries(st.tuples(st.sampled_from(BACKENDS), st.sampled_from([4, 8, 16, 32])), st.floats(1, 1e6), min_size=1)


@given(rates)
def test_the_best_backend_and_its_smallest_good_batch(measured: dict[tuple[str, int], float]) -> None:
    choice = choose(measured)
    best = max(measured.values())
    assert measured[choice.backend, choice.max_batch] >= GOOD_ENOUGH * best
    of_backend = {size: rate for (name, size), rate in measured.items() if name == choice.backend}
    assert max(of_backend.values()) == best
    assert all(rate < GOOD_ENOUGH * best for size, rate in of_backend.items() if size < choice.max_batch)


def test_the_choice_goes_first_and_only_where_it_is_allowed() -> None:
    assert preferred(("torch", "onnx"), CHOICE) == ("onnx", "torch")
    assert preferred(("torch",), CHOICE) == ("torch",)
    assert preferred(("torch", "onnx"), None) == ("torch", "onnx")


def test_a_worker_takes_the_batch_of_the_backend_it_runs() -> None:
    assert best_batch(CHOICE, "onnx", "cpu") == 8
    assert best_batch(CHOICE, "torch", "cpu") == BATCH_ON_CPU
    assert best_batch(None, "torch", "cuda:0") == BATCH_ON_CUDA


def test_measuring_ends_in_time_and_covers_every_batch(encoder: SentenceEncoder) -> None:
    began = time.monotonic()
    found = measure([encoder], (2, 4), budget_s=0.2)
    assert time.monotonic() - began < 60
    assert set(found) <= {("torch", 2), ("torch", 4)}
    assert ("torch", 2) in found
    assert all(rate > 0 for rate in found.values())


def test_a_batch_costs_more_than_its_encoding(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "BESIDE_S", {"cpu": 100.0})
    found = measure([encoder], (2, 4), budget_s=0.2)
    assert 0.0 < 100.0 * found["torch", 2] <= sum(encoder.encode(sample_queries(2)).tokens)


def test_calibration_measures_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MEASURE_S", 0.1)
    monkeypatch.setattr(measuring, "BATCHES", {"cpu": (1, 2), "cuda": (1, 2)})
    first = calibrate("all-MiniLM-L6-v2", "cpu", backend="torch", cache_dir=tmp_path)
    assert first.fresh
    assert first.kept
    assert first.choice.backend == "torch"
    assert first.setup == setup(first.setup["model"], "cpu", "float32", "torch", torch.get_num_threads())
    again = calibrate("all-MiniLM-L6-v2", "cpu", backend="torch", cache_dir=tmp_path)
    assert not again.fresh
    assert again.choice == first.choice


TIMES = {("exact", 1): 2e-4, ("exact", 64): 4e-4, ("faiss", 1): 1e-4, ("faiss", 64): 3e-4}


def test_the_engine_that_is_sooner_is_kept_with_its_times(tmp_path: Path) -> None:
    found = with_engine(CHOICE, WANTED, lambda: TIMES, tmp_path)
    assert (found.engine, found.searched["faiss 64"], found.backend) == ("faiss", 0.3, CHOICE.backend)
    assert remember(WANTED, found, tmp_path)
    assert recall(WANTED, tmp_path) == found
    assert with_engine(CHOICE, WANTED, dict, tmp_path).engine == "exact"


def test_a_trial_of_engines_that_ends_the_process_means_exact(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with_engine(CHOICE, WANTED, lambda: os._exit(3), tmp_path)  # as a crash inside a library does
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert recall(WANTED, tmp_path) == replace(CHOICE, engine="exact")


def test_one_process_measures_at_a_time(tmp_path: Path) -> None:
    with calibrating(tmp_path), open(tmp_path / "calibration.lock", "ab") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / "calibration.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_sample_queries_are_different() -> None:
    assert len(set(sample_queries(512))) == 512
