"""The small buffer that outlives a worker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ragpool.wire.progress import IDS_MAX, SIZE, Progress, ProgressWriter, read_progress, stamp_beat

IDS = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


@given(IDS, st.integers(1, 1 << 60))
def test_what_runs_is_read_until_it_is_cleared(ids: list[bytes], started_ns: int) -> None:
    buffer = bytearray(SIZE)
    writer = ProgressWriter(buffer)
    writer.start(started_ns, ids)
    assert read_progress(buffer) == Progress(started_ns, tuple(ids))
    writer.took(7)
    writer.clear()
    assert read_progress(buffer) == Progress(p99_ns=7)


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
        buffer[:8] = b"RPPROG02"
    read_progress(buffer)


def test_a_writer_that_died_half_way_is_told() -> None:
    buffer = bytearray(SIZE)
    writer = ProgressWriter(buffer)
    writer.start(7, [b"a" * 16])
    buffer[8] |= 1
    assert read_progress(buffer).torn


def test_the_p99_is_that_of_recent_batches() -> None:
    buffer = bytearray(SIZE)
    writer = ProgressWriter(buffer)
    for took in (900_000, *range(1, 129)):
        writer.start(1_000, [])
        writer.took(took)
        writer.clear()
    assert read_progress(buffer).p99_ns == 127, "the slowest of the last 128 but one"


@given(IDS, st.integers(1, 1 << 60))
def test_a_beat_and_a_batch_leave_each_other_alone(ids: list[bytes], beat_ns: int) -> None:
    buffer = bytearray(SIZE)
    writer = ProgressWriter(buffer)
    stamp_beat(buffer, beat_ns)
    writer.start(5, ids)
    assert read_progress(buffer) == Progress(5, tuple(ids), beat_ns=beat_ns)
    stamp_beat(buffer, beat_ns + 1)
    assert read_progress(buffer) == Progress(5, tuple(ids), beat_ns=beat_ns + 1)


def test_the_age_of_a_batch() -> None:
    assert Progress(started_ns=2_000_000_000).age_s(5_500_000_000) == 3.5
    assert Progress().age_s(5) == 0.0
