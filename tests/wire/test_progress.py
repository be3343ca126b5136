"""The small buffer that outlives a worker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ragpool.wire.progress import IDS_MAX, SIZE, Progress, ProgressWriter, read_progress

IDS = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


@given(IDS, st.integers(1, 1 << 60))
def test_what_runs_is_read_until_it_is_cleared(ids: list[bytes], started_ns: int) -> None:
    buffer = bytearray(SIZE)
    writer = ProgressWriter(buffer)
    writer.start(started_ns, ids)
    assert read_progress(buffer) == Progress(started_ns, tuple(ids))
    writer.clear()
    assert read_progress(buffer) == Progress()


def test_a_fresh_buffer_is_idle() -> None:
    assert read_progress(bytearray(SIZE)) == Progress()


def test_more_than_it_holds_is_cut() -> None:
    buffer = bytearray(SIZE)
    ProgressWriter(buffer).start(1, [n.to_bytes(16, "big") for n in range(IDS_MAX + 5)])
    assert len(read_progress(buffer).running) == IDS_MAX


@given(st.binary(max_size=200), st.booleans())
def test_whatever_a_dead_writer_left_is_read_without_an_error(left: bytes, known: bool) -> None:
    buffer = bytearray(SIZE)
    buffer[8 : 8 + len(left)] = left
    if known:
        buffer[:8] = b"RPPROG01"
    read_progress(buffer)


def test_a_writer_that_died_half_way_is_told() -> None:
    buffer = bytearray(SIZE)
    writer = ProgressWriter(buffer)
    writer.start(7, [b"a" * 16])
    buffer[8] |= 1
    assert read_progress(buffer).torn


def test_the_age_of_a_batch() -> None:
    assert Progress(started_ns=2_000_000_000).age_s(5_500_000_000) == 3.5
    assert Progress().age_s(5) == 0.0
