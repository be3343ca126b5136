"""kill -9 of the parent at any moment, also while its workers load: nothing of the pool may live three seconds later."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

from pools import Pool

from .callers import MARK
from .deeds import LEFT_S
from .world import find_marked

SLOWEST_S = 8.0
"""Longer than a pool of two takes to be ready on an idle machine."""


def kill_parents(folder: Path, index: Path, times: int, rng: Random) -> int:
    """Start a pool and kill its parent after a moment of chance, `times` times; 1 if any process was left, else 0."""
    total = 0
    for number in range(times):
        mark = f"{number}-{rng.randrange(1 << 60):x}"
        place = folder / str(number)
        place.mkdir(parents=True)
        pool = Pool(place, "--index", str(index), "--workers", "2", "--device", "cpu", env={MARK: mark})
        Pool.loose.discard(pool)
        after_s = rng.uniform(0.0, SLOWEST_S)
        time.sleep(after_s)
        before = len(find_marked(mark))
        stage = "ready" if pool.output.startswith("ready") else "starting"
        pool.process.kill()
        pool.process.wait(10)
        killed = time.monotonic()
        while (left := find_marked(mark)) and time.monotonic() < killed + LEFT_S:
            time.sleep(0.01)
        took = time.monotonic() - killed
        total += len(left)
        story = f"{stage}, {before} processes, killed after {after_s:.2f} s: {len(left)} left after {took:.2f} s"
        print(f"{number + 1:3}: {story}", flush=True)
    print(f"parents killed {times}, left {total}", flush=True)
    return 1 if total else 0
