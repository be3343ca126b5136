"""When the memory of a dead process is back: readings and literal times in; and readings from a driver that is a double."""

import pytest
from ragpool.supervisor.device_memory import BACK, HELD, SILENT_MAX_S, WAIT, WAIT_MAX_S, MemoryWait, Reading
from ragpool.supervisor.nvml import NvmlMemory, start_readings

GIB = 2**30


def reading(at, used, **held):
    return Reading(at, used * GIB, 80 * GIB, {int(pid[1:]): size * GIB for pid, size in held.items()})


def test_a_process_that_was_listed_has_given_back_when_it_is_no_longer():
    wait = MemoryWait(41, listed=True, ended_at=100.0)
    assert wait.judge(reading(99.9, 10, p41=8), 100.0, 100.1) == WAIT, "from before its end"
    assert wait.judge(reading(100.5, 10, p41=8), 100.0, 100.6) == WAIT
    assert wait.held == 8 * GIB
    assert wait.judge(reading(101.0, 2), 100.0, 101.0) == BACK


def test_it_is_held_for_too_long_from_when_a_successor_was_wanted():
    wait = MemoryWait(41, listed=True, ended_at=100.0)
    assert wait.judge(reading(125.0, 10, p41=8), 110.0, 110.0 + WAIT_MAX_S) == WAIT
    assert wait.judge(reading(140.5, 10, p41=8), 110.0, 110.1 + WAIT_MAX_S) == HELD
    assert wait.judge(reading(450.0, 10, p41=8), 450.0, 450.0) == WAIT, "the next probe has its own time"


def test_one_that_never_was_listed_has_given_back_when_used_memory_has_stopped_falling():
    """Inside a container the driver names processes by numbers of another namespace."""
    wait = MemoryWait(41, listed=False, ended_at=100.0)
    assert wait.judge(reading(100.5, 10), 100.0, 100.5) == WAIT, "one reading says nothing"
    assert wait.judge(reading(100.5, 10), 100.0, 100.7) == WAIT, "and the same one nothing more"
    assert wait.judge(reading(101.0, 6), 100.0, 101.0) == WAIT, "it still falls"
    assert wait.judge(reading(101.5, 6), 100.0, 101.5) == BACK


def test_nobody_waits_long_for_a_driver_that_says_nothing():
    wait = MemoryWait(41, listed=True, ended_at=100.0)
    assert wait.judge(None, 100.0, 100.0 + SILENT_MAX_S) == WAIT
    assert wait.judge(None, 100.0, 100.1 + SILENT_MAX_S) == BACK
    assert wait.judge(reading(99.0, 10, p41=8), 100.0, 100.1 + SILENT_MAX_S) == BACK, "it hangs since before"


class Nvml:
    """The part of nvidia-ml-py that is used, over devices told as (name, used, total, {pid: bytes or None})."""

    class NVMLError(Exception):
        pass

    def __init__(self, *devices):
        self.devices = devices

    def nvmlDeviceGetHandleByIndex(self, number):
        if number >= len(self.devices):
            raise self.NVMLError("no such device")
        return self.devices[number]

    def nvmlDeviceGetHandleByUUID(self, name):
        return next(device for device in self.devices if device[0] == name)

    def nvmlDeviceGetMemoryInfo(self, place):
        return type("Memory", (), {"used": place[1], "total": place[2]})

    def nvmlDeviceGetComputeRunningProcesses(self, place):
        return [type("Process", (), {"pid": pid, "usedGpuMemory": size}) for pid, size in place[3].items()]


@pytest.mark.parametrize(
    ("visible", "device", "used"),
    [
        ("", "cuda:1", 20),
        ("", "cuda", 10),
        ("1,0", "cuda:0", 20),
        ("GPU-b", "cuda:0", 20),
        ("1", "cuda:1", None),
        ("", "cuda:7", None),
    ],
)
def test_the_driver_s_device_is_the_one_that_the_worker_sees(visible, device, used):
    nvml = Nvml(("GPU-a", 10, 80, {}), ("GPU-b", 20, 80, {5: None, 6: 3}))
    found = NvmlMemory(nvml, [device], visible).read(device)
    assert (found and found.used) == used
    if used == 20:
        assert found.by_pid == {5: 0, 6: 3}


def test_the_names_are_those_of_the_real_package():
    pynvml = pytest.importorskip("pynvml")
    assert all(hasattr(pynvml, name) for name in [*(n for n in dir(Nvml) if n.startswith("nvml")), "NVMLError", "nvmlInit"])


def test_without_cuda_devices_nothing_is_read():
    assert start_readings(["cpu", "cpu"]) is None
