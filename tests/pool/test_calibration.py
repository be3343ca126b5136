"""A start measures once, before any worker; workers serve with what was found, and say so; a respawn measures nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from pools import Pool, run_cli, running_pool, wait_until
from ragpool.broker.cli_start import unmeasured
from ragpool.conf.settings import PoolSettings, Settings
from ragpool.index import calibration
from ragpool.index.calibration import RECORDS
from ragpool.index.manifest import read_manifest
from ragpool.index.runtimes import missing

pytestmark = pytest.mark.process

AUTOMATIC = {"RAGPOOL_WORKER__BACKEND": "auto", "RAGPOOL_WORKER__MAX_BATCH": "0"}
SAID = "calibrating the encoder on cpu, once"


@pytest.mark.timeout(600)
def test_the_first_start_calibrates_and_workers_serve_what_was_found(index: Path, tmp_path: Path) -> None:
    env = {**AUTOMATIC, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    flags = ("--index", str(index), "--workers", "1", "--device", "cpu")
    with running_pool(tmp_path, *flags, env=env) as pool:
        assert pool.output.count(SAID) == 1
        (record,) = json.loads((tmp_path / "cache" / "ragpool" / RECORDS).read_text()).values()
        (worker,) = pool.status()["workers"]
        assert (worker["backend"], worker["dtype"]) == (record["backend"], "float32")
        measured = {name.split()[0] for name in record["measured"]}
        assert measured == {backend for backend in ("torch", "onnx", "openvino") if not missing(backend)}
        told = run_cli("rag-broker", "config", "--config", _config(tmp_path, index), env=env)
        assert f"# calibrated on cpu: backend {record['backend']}, max_batch {record['max_batch']}" in told.stdout
        doctor = run_cli("rag-broker", "doctor", "--config", _config(tmp_path, index), env=env)
        assert f"calibrated: {record['backend']}, batches of up to {record['max_batch']}" in doctor.stdout
        before = (tmp_path / "cache" / "ragpool" / RECORDS).stat().st_mtime_ns
        _kill_and_wait(pool)
        assert (tmp_path / "cache" / "ragpool" / RECORDS).stat().st_mtime_ns == before
        assert pool.output.count(SAID) == 1


def test_a_cache_that_cannot_be_kept_costs_the_defaults(index: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    env = {**AUTOMATIC, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with running_pool(tmp_path, "--index", str(index), "--workers", "1", "--device", "cpu", env=env) as pool:
        assert "the encoder is not calibrated; the pool serves with defaults" in pool.output
        assert pool.status()["workers"][0]["backend"] == "torch"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RAGPOOL_WORKER__BACKEND": "torch", "RAGPOOL_WORKER__DTYPE": "int8"}, "the torch backend has no dtype 'int8'"),
        (
            {"RAGPOOL_WORKER__BACKEND": "openvino", "RAGPOOL_WORKER__DTYPE": "float16"},
            "the openvino backend has no dtype 'float16'",
        ),
    ],
)
def test_what_no_worker_could_honour_ends_the_start(index: Path, tmp_path: Path, env: dict[str, str], words: str) -> None:
    pool = Pool(tmp_path, "--index", str(index), "--device", "cpu", env=env)
    assert pool.process.wait(60) == 2
    assert words in pool.output


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["NVIDIA H100", "NVIDIA H100"], ["cuda:0", "cpu"]),
        (["NVIDIA T4", "NVIDIA H100"], ["cuda:0", "cuda:1", "cpu"]),
    ],
)
def test_a_start_measures_on_each_kind_of_gpu(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], asked: list[str]
) -> None:
    monkeypatch.setattr(calibration, "_gpu_names", lambda: names)
    monkeypatch.setattr(calibration, "cache_folder", lambda: tmp_path)
    pool, manifest = PoolSettings(devices=("cuda:0", "cuda:1", "cuda:0", "cpu"), workers=4), read_manifest(index)
    settings = Settings(pool=pool)
    assert [device for device, _ in unmeasured(settings, manifest)] == asked
    for _, wanted in unmeasured(settings, manifest):
        assert calibration.remember(wanted, calibration.Choice("torch", 8, {}))
    assert unmeasured(settings, manifest) == []
    assert all(calibration.recall(calibration.of_pool(manifest, settings, device)) for device in pool.devices)


def _config(folder: Path, index: Path) -> str:
    file = folder / "pool.toml"
    file.write_text(f'[pool]\ndevices = ["cpu"]\nworkers = 1\n[index]\npath = "{index}"\n')
    return str(file)


def _kill_and_wait(pool: Pool) -> None:
    (slot,) = pool.status()["slots"]
    os.kill(slot["pid"], signal.SIGKILL)

    def back() -> bool:
        status = pool.status()
        fresh = [worker for worker in status["workers"] if worker["state"] == "ready"]
        return bool(fresh) and status["slots"][0]["pid"] not in (None, slot["pid"])

    wait_until(back, 90, "the worker is back")
