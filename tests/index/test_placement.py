"""What fits on a device and what does not, in numbers; and which engine a flat index gets there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.conf.settings import ConfigurationError
from ragpool.index.engine import AUTO, EXACT, FAISS, FLOAT16_NORM_MAX, flat_engine
from ragpool.index.errors import DeviceFull, DeviceUnavailable
from ragpool.index.placement import (
    NORM_BYTES,
    PAGES_BYTES,
    PROCESS_BYTES,
    TEMP_BYTES,
    WORKSPACE_BYTES,
    Memory,
    check_memory,
    check_room,
    cloning,
    flat_bytes,
    putting_failed,
    spanned,
    takes_full,
)
from ragpool.worker.faults import CUDA, classify

GIB = 1 << 30
CHOICE = "build --type compact"


def device(number: int, free: float, total: float = 80) -> Memory:
    return Memory(number, int(free * GIB), int(total * GIB))


def test_where_an_index_fits_and_how_it_is_cloned() -> None:
    one = cloning("wiki", "compact", 4 * GIB, 40, [device(0, 10)])
    assert (one.devices, one.shard, one.float16_tables) == ((0,), False, False)
    two = cloning("wiki", "compact", 16 * GIB, 100, [device(2, 10), device(3, 10)])
    assert (two.devices, two.shard, two.float16_tables) == ((2, 3), True, True)
    with pytest.raises(DeviceUnavailable, match=r"is a graph .* set index\.gpu = false"):
        cloning("wiki", "hnsw", GIB, 100, [device(0, 10)])
    assert spanned("cuda:2", 2, 4) == (2, 3)
    with pytest.raises(DeviceUnavailable, match="cuda:3 to cuda:4 are not all there"):
        spanned("cuda:3", 2, 4)


def test_larger_than_the_device_is_configuration_and_no_room_now_is_not() -> None:
    with pytest.raises(DeviceUnavailable, match=r"wiki does not fit cuda:0: .* need 18\.10 GiB .* device has 16\.00 GiB; use a"):
        cloning("wiki", "compact", 16 * GIB, 100, [device(0, 16, 16)])
    with pytest.raises(DeviceFull, match=r"no room on cuda:0 now: .* need 18\.10 GiB .* 10\.00 GiB of 80\.00 GiB are free"):
        cloning("wiki", "compact", 16 * GIB, 100, [device(0, 10)])
    with pytest.raises(DeviceFull, match="cuda:3 now"):
        cloning("wiki", "compact", 16 * GIB, 100, [device(2, 10), device(3, 1)])
    assert not issubclass(DeviceFull, ConfigurationError)
    need = 10 * GIB - TEMP_BYTES - WORKSPACE_BYTES
    check_room("wiki", need, device(0, 10, 10), CHOICE)
    with pytest.raises(DeviceUnavailable, match=CHOICE):
        check_room("wiki", need + 1, device(0, 10, 10), CHOICE)
    with pytest.raises(DeviceFull):
        check_room("wiki", need + 1, device(0, 10, 11), CHOICE)


def test_bytes_of_a_flat_index_on_each_device() -> None:
    assert flat_bytes(1_000_000, 384, 1, False) == 768_000_000
    assert flat_bytes(1_000_000, 384, 1, True) == 768_000_000 + 1_000_000 * NORM_BYTES + PAGES_BYTES
    assert flat_bytes(1_000_001, 384, 2, True) == 500_001 * (768 + NORM_BYTES) + PAGES_BYTES


def test_float32_rows_leave_room_for_every_worker_of_the_device() -> None:
    half, full = 10 * GIB, 20 * GIB
    assert takes_full(half, full, 1, device(0, 69))
    assert takes_full(half, full, 2, device(0, 69))
    assert not takes_full(half, full, 3, device(0, 69))  # 3 x 31.5 GiB
    assert not takes_full(half, full, 1, device(0, 20.1))  # what others hold now


@given(st.integers(1, 40 * GIB), st.integers(1, 12), st.integers(1, 80 * GIB))
def test_whoever_loads_last_finds_room_for_its_half_rows(half: int, sharing: int, total: int) -> None:
    """If one takes float32 rows all may, and still each one's half rows fitted when it came, also as the last."""
    full = 2 * half
    if takes_full(half, full, sharing, Memory(0, total, total)):
        others = (sharing - 1) * (half + full + PROCESS_BYTES)
        check_room("wiki", half, Memory(0, total - others - PROCESS_BYTES, total), CHOICE)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("StandardGpuResources: alloc fail type FlatData dev 0 space Device stream 0x0 size 1 bytes", DeviceFull),
        ("CUDA error: out of memory", DeviceFull),
        ("CUDA error 700 an illegal memory access was encountered", RuntimeError),
        ("GPU index does not support this code size", DeviceUnavailable),
    ],
)
def test_what_faiss_says_tells_a_shortage_from_what_it_cannot(told: str, kind: type[Exception]) -> None:
    error = putting_failed("wiki", "cuda:0", told)
    assert type(error) is kind
    assert told in str(error)
    assert (classify(error) == CUDA) == (kind is RuntimeError)  # a fresh process is started then


def test_more_than_the_memory_is_refused_before_it_is_read() -> None:
    check_memory("wiki", "its rows", GIB, GIB)
    with pytest.raises(DeviceUnavailable, match=r"wiki does not fit cpu: its rows take 2\.00 GiB, .* may use 1\.00 GiB"):
        check_memory("wiki", "its rows", 2 * GIB, GIB)


@pytest.mark.parametrize(
    ("wanted", "fastest", "gpus", "longest", "engine"),
    [
        (AUTO, EXACT, 1, 1.0, EXACT),
        (AUTO, "", 1, 1.0, EXACT),
        (AUTO, FAISS, 1, 1.0, FAISS),
        (AUTO, FAISS, 1, 2 * FLOAT16_NORM_MAX, EXACT),
        (AUTO, EXACT, 2, 1.0, FAISS),
        (EXACT, FAISS, 1, 1.0, EXACT),
        (FAISS, EXACT, 1, 1.0, FAISS),
    ],
)
def test_the_engine_of_a_flat_index_on_a_device(wanted: str, fastest: str, gpus: int, longest: float, engine: str) -> None:
    assert flat_engine(wanted, fastest, gpus, longest) == engine


@pytest.mark.parametrize(
    ("wanted", "gpus", "longest", "sentence"),
    [
        (EXACT, 2, 1.0, "exact stands on 1 device"),
        (FAISS, 1, 2 * FLOAT16_NORM_MAX, "too long for faiss' float16"),
        (AUTO, 2, 2 * FLOAT16_NORM_MAX, "too long for faiss' float16"),
    ],
)
def test_an_engine_that_cannot_serve_these_rows_is_refused(wanted: str, gpus: int, longest: float, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        flat_engine(wanted, EXACT, gpus, longest)
