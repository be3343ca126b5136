"""A worker's edge without a broker."""

from __future__ import annotations

from pathlib import Path

from ragpool.wire.messages import Register
from ragpool.wire.progress import SIZE, read_progress
from ragpool.worker.loop import Loop


def test_each_turn_is_stamped_and_told_to_who_times_the_batches(tmp_path: Path) -> None:
    """Else nobody would know that a process was stopped within a batch."""
    buffer = bytearray(SIZE)
    loop = Loop(f"ipc://{tmp_path}/nobody", Register("inc", "loading"), 0.1, buffer, load=lambda: 1 / 0, on_loaded=print)  # type: ignore[arg-type, return-value]
    try:
        for _ in range(2):
            loop._turn()
            assert loop._owner._in_flight._turned_ns == read_progress(buffer).beat_ns > 0
    finally:
        loop._context.destroy(linger=0)
        loop._wake_in.close()
        loop._wake_out.close()
