"""The offline ceiling: what the same encoder, engine and store reach with nobody to talk to.

As many processes as the pool has workers, each with as many threads and on cores of its own as these are, all at once: windows
of 100 queries sorted by length and cut into batches, then encode, search, fetch. Run as a program it is one of these processes: a
job a line on stdin, a result on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ragpool.conf.cores import keep_to_share, thread_environment, usable_cores

from .ideal import Service
from .records import SERVICE_SIZES, Ceiling
from .servers.work import TOP_K

WINDOW = 100
FASTEST = 600
"""Queries that one process is given for each second of a job. One that is faster ends its job earlier."""
BATCHES = (4, 8, 16, 32)
_BENCHMARKS = Path(__file__).resolve().parent.parent


class Twins:
    """The processes, loaded. Each job is done by all of them at the same time, with queries of their own."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def _all(self, job: dict[str, Any], queries: Iterator[str], count: int) -> list[Any]:
        for process in self._processes:
            if process.stdin is None:
                raise RuntimeError("no pipe")
            process.stdin.write(json.dumps({**job, "queries": [next(queries) for _ in range(count)]}) + "\n")
            process.stdin.flush()
        return [_line(process) for process in self._processes]

    def run(self, queries: Iterator[str], batch: int, seconds: float) -> Ceiling:
        """Windows for `seconds` (each started window is ended)."""
        done = self._all({"job": "run", "batch": batch, "seconds": seconds}, queries, int(seconds * FASTEST))
        asked = sum(one["count"] for one in done)
        return Ceiling(sum(one["count"] / one["wall_s"] for one in done), sum(one["cpu_s"] for one in done) / asked * 1e3, batch)

    def best(self, queries: Iterator[str], seconds: float) -> Ceiling:
        """With the batch that is fastest."""
        return max((self.run(queries, batch, seconds) for batch in BATCHES), key=lambda found: found.qps)

    def service(self, queries: Iterator[str], seconds: float) -> Service:
        """What batches take while all processes are busy."""
        share = seconds / len(SERVICE_SIZES)
        found = {}
        for size in SERVICE_SIZES:
            done = self._all(
                {"job": "batches", "size": size, "seconds": share}, queries, int(share * FASTEST) // size * size + size
            )
            found[size] = [time for one in done for time in one["seconds"]]
        return Service.measured(found)

    def single_ms(self, queries: Iterator[str], count: int) -> float:
        """The median of encode(1) + search(1) + fetch in one process, with the other idle."""
        first = Twins(self._processes[:1])
        return float(median(first._all({"job": "single"}, queries, count)[0]["seconds"])) * 1e3


@contextmanager
def twins(index: Path, count: int) -> Iterator[Twins]:
    """`count` processes, ended with the block."""
    command = [sys.executable, "-m", f"{__package__}.ceiling", str(index)]
    threads = thread_environment(max(1, usable_cores() // count))
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(_BENCHMARKS)}
    processes = [
        subprocess.Popen(
            [*command, str(number), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for number in range(count)
    ]
    try:
        for process in processes:
            _line(process)
        yield Twins(processes)
    finally:
        for process in processes:
            process.terminate()
            process.communicate()


def _line(process: subprocess.Popen[str]) -> Any:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError("a process of the ceiling ended")
    return json.loads(line)


# ---- one of the processes ------------------------------------------------------------------------------------------

Work = Callable[[Sequence[str]], object]


def _load(folder: str) -> Work:
    from ragpool.index.encoder import load_index_encoder
    from ragpool.index.engine import load_engine
    from ragpool.index.store import open_index

    index = open_index(folder)
    encoder, engine = load_index_encoder(index.manifest, "cpu", "float32"), load_engine(index, "cpu", "exact")
    raw = index.passages.raw

    def work(queries: Sequence[str]) -> object:
        _, rows = engine.search(encoder.encode(queries, "query").vectors, TOP_K)
        return [raw(row) for row in rows.ravel().tolist()]

    return work


def _run(work: Work, queries: list[str], batch: int, seconds: float) -> dict[str, float]:
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    for first in range(0, len(queries), WINDOW):
        window = sorted(queries[first : first + WINDOW], key=len)
        for start in range(0, len(window), batch):
            work(window[start : start + batch])
        count += len(window)
        if time.perf_counter() - began >= seconds:
            break
    return {"count": count, "wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


def _batches(work: Work, queries: list[str], size: int, seconds: float) -> dict[str, list[float]]:
    ends = [time.perf_counter()]
    for start in range(0, len(queries), size):
        work(queries[start : start + size])
        ends.append(time.perf_counter())
        if ends[-1] - ends[0] >= seconds:
            break
    return {"seconds": [after - before for before, after in pairwise(ends)]}


def _single(work: Work, queries: list[str]) -> dict[str, list[float]]:
    seconds = []
    for query in queries:
        began = time.perf_counter()
        work([query])
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index")
    parser.add_argument("number", type=int)
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    work = _load(options.index)
    keep_to_share(options.number, options.count)
    for size in SERVICE_SIZES:
        work(["what is the first question", "and which is the second one of them"][:size] * max(1, size // 2))
    print("{}", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        kind = job.pop("job")
        done = {"run": _run, "batches": _batches, "single": _single}[kind](work, **job)
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
