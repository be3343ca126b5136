"""How long the passages of k rows take, and those of k ids: `python benchmarks/passages.py [ROWS]`.

Writes a passage store of short passages (500,000 unless said), maps it as a worker does, and takes random rows and ids from it.
Beside it, in the same run, what decoding each passage and encoding it again would cost.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ragpool.index.passage import Passage, pack_passage
from ragpool.index.passage_writer import PassageWriter
from ragpool.index.passages import IDS, OFFSETS, ROWS, PassageStore
from ragpool.wire import codec

K = 10
CALLS = 5_000


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(PassageWriter(Path(folder))) as writer:
            for first in range(0, count, 4_096):
                numbers = range(first, min(first + 4_096, count))
                some = [Passage(f"passage-{n}", f"title {n}", "some words of text " * 30) for n in numbers]
                writer.append([passage.id for passage in some], [pack_passage(passage) for passage in some])
            writer.finish()
        store = PassageStore(*(np.memmap(Path(folder, role), dtype=np.uint8, mode="r") for role in (ROWS, OFFSETS, IDS)))
        draw = random.Random(1)
        rows = [[draw.randrange(count) for _ in range(K)] for _ in range(CALLS)]
        ids = [[f"passage-{row}" for row in some] for some in rows]
        store.raw_many(range(count))  # in the page cache
        raw = measured("raw bytes of k rows", lambda call: store.raw_many(rows[call]))
        measured("raw bytes of k ids", lambda call: [store.raw(store.find(id_) or 0) for id_ in ids[call]])
        again = measured("decoded, encoded again", lambda call: [codec.pack(store.get(row)) for row in rows[call]])
        print(f"raw is {again / raw:.1f} times as fast as decoding; {count:,} passages, k = {K}")


def measured(what: str, run: Callable[[int], object]) -> float:
    """Microseconds a call, printed."""
    since = time.perf_counter()
    for call in range(CALLS):
        run(call)
    each = (time.perf_counter() - since) / CALLS * 1e6
    print(f"{what:<24}{each:>9.1f} µs a call{each / K:>9.2f} µs a passage")
    return each


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500_000)
