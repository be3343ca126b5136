"""How devices are divided among workers, before any of them starts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.conf.devices import cuda_devices, groups, placed, resolve, sharing, worker_count
from ragpool.conf.errors import ConfigurationError
from ragpool.conf.legacy import translate
from ragpool.conf.mapping import from_mapping
from ragpool.conf.settings import IndexSettings, PoolSettings, Settings


def cuda(*numbers: int) -> tuple[str, ...]:
    return tuple(f"cuda:{number}" for number in numbers)


def spanning(gpus: int, gpu: bool = True) -> IndexSettings:
    return IndexSettings(gpus_per_worker=gpus, gpu=gpu)


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        (None, 2), ("0,1", 2), ("1", 1), ("1,0,1", 2), ("GPU-5f2a,MIG-77", 2), ("0,-1,1", 1), ("", 0), ("-1", 0), ("2", 0),
        ("0,7,1", 1), ("none", 0), ("NoDevFiles", 0), ("0,,1", 1), (" 0 , 1 ", 2),
    ],
)  # fmt: skip
def test_devices_are_those_that_cuda_shows(visible: str | None, shown: int) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert cuda_devices(["null", "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"], environ) == shown
    assert cuda_devices(["null"], environ) == 0


@pytest.mark.parametrize(
    ("devices", "gpus", "cut"),
    [
        (cuda(0, 1), 2, (cuda(0, 1),)),
        (cuda(0, 1, 2, 3), 2, (cuda(0, 1), cuda(2, 3))),
        (cuda(2, 3, 0, 1), 2, (cuda(2, 3), cuda(0, 1))),
        (cuda(0, 1, 0, 1), 2, (cuda(0, 1), cuda(0, 1))),
        (("cuda", "cuda:1"), 2, (("cuda", "cuda:1"),)),
        (("cuda:0", "cpu", "cuda:1"), 2, (cuda(0, 1), ("cpu",))),
        (("cpu", "cpu"), 2, (("cpu",), ("cpu",))),
        (cuda(3, 0), 1, (cuda(3), cuda(0))),
    ],
)
def test_devices_are_cut_into_groups(devices: tuple[str, ...], gpus: int, cut: tuple[tuple[str, ...], ...]) -> None:
    assert groups(devices, spanning(gpus)) == cut
    assert placed(devices, spanning(gpus)) == tuple(group[0] for group in cut)


@pytest.mark.parametrize(
    ("devices", "gpus", "sentence"),
    [
        (cuda(0), 2, "index.gpus_per_worker is 2 and the devices of the pool are cuda:0: name as many CUDA devices as can be"),
        (cuda(0, 1, 2), 2, "divided into groups of 2"),
        (cuda(0, 2), 2, "one worker would span cuda:0, cuda:2, whose numbers must follow each other"),
        (cuda(0, 0), 2, "one worker would span cuda:0, cuda:0"),
        (cuda(1, 0), 2, "one worker would span cuda:1, cuda:0"),
    ],
)
def test_what_cannot_be_divided_is_refused(devices: tuple[str, ...], gpus: int, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        groups(devices, spanning(gpus))
    assert len(groups(devices, spanning(gpus, gpu=False))) == len(devices)  # the index stands on cpu and spans nothing


@given(st.integers(1, 16), st.integers(1, 8), st.integers(0, 40))
def test_no_two_workers_share_a_device_before_each_has_one(seen: int, gpus: int, wanted: int) -> None:
    devices = cuda(*range(seen))
    if seen % gpus:
        with pytest.raises(ConfigurationError):
            groups(devices, spanning(gpus))
        return
    cut, told = groups(devices, spanning(gpus)), placed(devices, spanning(gpus))
    assert [device for group in cut for device in group] == list(devices)
    count = worker_count(wanted, told, cores=8)
    assert count == (wanted or seen // gpus)
    settings = Settings(pool=PoolSettings(devices=devices, workers=count), index=spanning(gpus))
    assert {sharing(settings, device) for device in told} <= {max(1, count // len(cut)), -(-count // len(cut))}


def test_how_many_share_a_device() -> None:
    def shared(devices: tuple[str, ...], workers: int, gpus: int, device: str) -> int:
        return sharing(Settings(pool=PoolSettings(devices=devices, workers=workers), index=spanning(gpus)), device)

    assert shared(cuda(0, 1), 8, 1, "cuda:1") == 4
    assert shared(cuda(0, 1), 8, 2, "cuda:0") == 8
    assert shared(cuda(0, 1, 1, 2), 2, 2, "cuda:0") == 2  # both have a share on cuda:1
    assert shared(("auto",), 0, 1, "cuda:0") == 1


def test_workers_of_cpu_devices_are_one_for_each_core() -> None:
    assert worker_count(0, placed(("cpu",), spanning(2)), cores=3) == 3
    assert worker_count(0, placed(("cpu",), spanning(2)), cores=64) == 4


@pytest.mark.parametrize(
    ("config", "visible", "told", "count"),
    [
        ({"num_rag_workers": 4, "embedding_devices": "cuda:0,cuda:1", "gpu_parallel_degree": 2}, 2, ("cuda:0",), 4),
        ({"num_rag_workers": "2", "gpu_parallel_degree": "2", "embedding_devices": list(cuda(0, 1, 2, 3))}, 4, cuda(0, 2), 2),
        ({"gpu_parallel_degree": 2, "embedding_device": "cpu"}, 0, ("cpu",), 4),
        ({"num_rag_workers": 2, "gpu_parallel_degree": 2, "embedding_device": "cuda:0", "use_gpu_index": "false"}, 1, cuda(0), 2),
    ],
)
def test_the_older_configuration_gives_a_plan(config: dict[str, object], visible: int, told: tuple[str, ...], count: int) -> None:
    settings = from_mapping(translate({"rag": {"config": config}}, "old.json").mapping, "old.json")
    chosen = resolve(settings.pool.devices, {})
    assert placed(chosen, settings.index) == told
    assert worker_count(settings.pool.workers, told, cores=8) == count
