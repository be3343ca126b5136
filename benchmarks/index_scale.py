"""Index types at scale, beside hnswlib and usearch on the same vectors: time to build and memory it takes, size, time to open,
memory of workers, recall.

    python benchmarks/index_scale.py --rows 1000000 [--types flat,hnsw,compact] [--peers hnswlib,usearch]

Vectors are real embeddings (by default those of the demo index), each with noise of `--noise` times its length, brought back to
length 1. `build cs` and `open cs` are seconds of processor time, of all cores together, which neighbours on the machine disturb
least; `peak` is the memory of its own (not mapped) that a build took at the most beyond what its process had before. Graphs are
built with the same M and efConstruction on all cores; everybody is queried on one thread, one batch of all queries, timed by the
processor. QPS@0.95 is that of the least effort whose recall@10 reaches 0.95. `pip install ragpool[bench]` brings the peers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from made_index import SEED, made_index
from numpy.typing import NDArray
from ragpool.index.build import ensure_demo_index
from ragpool.index.effort import recall, true_neighbours
from ragpool.index.engine import load_engine
from ragpool.index.faiss_engine import FaissPartEngine, read_part
from ragpool.index.faiss_part import blocks_of
from ragpool.index.index_types import HNSW_EF_CONSTRUCTION, HNSW_LINKS
from ragpool.index.manifest import FLAT
from ragpool.index.passages import IDS, OFFSETS, ROWS
from ragpool.index.store import open_index
from ragpool.index.verify import verify_once

Floats = NDArray[np.float32]
K = 10
BAR = 0.95
EFFORTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--noise", type=float, default=0.6)
    parser.add_argument("--index", default="", help="flat index whose vectors are the real ones [the demo index]")
    parser.add_argument("--types", default="flat,hnsw,compact")
    parser.add_argument("--peers", default="hnswlib,usearch")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker)
        return
    if given.one:
        one(given.one[0], Path(given.one[1]), given)
        return
    with tempfile.TemporaryDirectory() as folder:
        path, queries = vectors(Path(folder), given)
        matrix = np.memmap(path, dtype="<f4", mode="r").reshape(given.rows, -1)
        np.save(Path(folder, "truth.npy"), true_neighbours(blocks_of(matrix), queries, np.full(len(queries), -1)))
        np.save(Path(folder, "queries.npy"), queries)
        print(
            f"{given.rows:,} x {matrix.shape[1]}, {len(queries):,} queries, built on {given.threads} threads, queried on 1\n",
            flush=True,
        )
        print(f"{'':<9}{'build cs':>9}{'peak MB':>9}{'MB':>9}{'in memory':>10}{'open cs':>8}{'PSS 1':>8}{'PSS 4':>8}"
              f"{'recall':>8}{'QPS':>8}{'QPS@0.95':>10}", flush=True)  # fmt: skip
        for name in filter(None, f"{given.types},{given.peers}".split(",")):
            subprocess.run([sys.executable, *sys.argv, "--one", name, folder], check=True)


def one(name: str, folder: Path, given: argparse.Namespace) -> None:
    """A line of the table, in a process of its own: what another build left in memory would count for less of this one's."""
    matrix = np.memmap(folder / "rows", dtype="<f4", mode="r").reshape(given.rows, -1)
    asked_for = (matrix, np.load(folder / "queries.npy"), np.load(folder / "truth.npy"), folder, given.threads)
    peer = {"hnswlib": of_hnswlib, "usearch": of_usearch}.get(name)
    if peer:
        peer(*asked_for)
    else:
        ours(name, *asked_for)


def vectors(folder: Path, given: argparse.Namespace) -> tuple[Path, Floats]:
    """A file of rows, float32, and queries made like them that are none of them."""
    rng = np.random.default_rng(SEED)
    with open_index(given.index or ensure_demo_index()) as index:
        real = np.array(index.vectors.full)

    def made(count: int) -> Floats:
        noise = rng.standard_normal((count, real.shape[1]), dtype=np.float32) * (given.noise / np.sqrt(real.shape[1]))
        rows = real[rng.integers(0, len(real), count)] + noise.astype(np.float32)
        unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")
        return unit

    with open(folder / "rows", "wb") as file:
        for first in range(0, given.rows, 16_384):
            file.write(made(min(16_384, given.rows - first)).tobytes())
    return folder / "rows", made(given.queries)


# ---- ours ------------------------------------------------------------------------------------------------------------


def ours(name: str, matrix: Floats, queries: Floats, truth: NDArray[np.int64], folder: Path, threads: int) -> None:
    with Building() as build:
        out = made_index(folder / "rows", *matrix.shape, folder / name, name, threads)
    verify_once(open_index(out), folder / "cache")
    one_thread()
    began = time.process_time()
    index = open_index(out)
    verify_once(index, folder / "cache")
    engine = load_engine(index, "cpu")
    opened = time.process_time() - began
    found, rate = asked(lambda some: engine.search(some, K)[1], queries)
    facts = index.manifest.search
    best: float | None = rate
    if index.manifest.type != FLAT:
        tries = (
            FaissPartEngine(read_part(index), dataclasses.replace(facts, effort=effort), engine._refine) for effort in EFFORTS
        )
        best = at_bar((lambda some, one=one: one.search(some, K)[1] for one in tries), queries, truth)
    size = sum(entry.size for role, entry in index.manifest.files.items() if role not in (ROWS, OFFSETS, IDS))
    held = [memory(out, folder, workers) for workers in (1, 4)]
    line(name, build, size, facts.part_bytes or size, opened, *held, recall(found.tolist(), truth), rate, best)
    print(f"{'':<9}{index.manifest.factory}, effort {facts.effort}, {facts.candidates} candidates, held-out recall "
          f"{facts.recall_at_10:.4f}")  # fmt: skip


def memory(out: Path, folder: Path, workers: int) -> float:
    """MiB of PSS that so many processes take more, in all, once they have opened the index and searched."""
    command = [sys.executable, __file__, "--worker", json.dumps([str(out), str(folder / "queries.npy")])]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    for one in running:
        one.stdout.readline()
    before = sum(pss(one.pid) for one in running)
    for one in running:
        one.stdin.write("\n")
        one.stdin.flush()
    for one in running:
        one.stdout.readline()
    after = sum(pss(one.pid) for one in running)
    for one in running:
        one.communicate("\n")
    return (after - before) / 1024


def worker(given: str) -> None:
    """Loads the libraries and waits; opens the index, searches and waits; ends."""
    out, file = json.loads(given)
    queries = np.load(file)[:64]
    one_thread()
    print("up", flush=True)
    sys.stdin.readline()
    engine = load_engine(open_index(out), "cpu")
    engine.search(queries, K)
    print("searched", flush=True)
    sys.stdin.readline()


def pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def one_thread() -> None:
    import faiss
    import torch

    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)


# ---- peers -----------------------------------------------------------------------------------------------------------


def of_hnswlib(matrix: Floats, queries: Floats, truth: NDArray[np.int64], folder: Path, threads: int) -> None:
    import hnswlib

    with Building() as build:
        index = hnswlib.Index("ip", matrix.shape[1])
        index.init_index(len(matrix), M=HNSW_LINKS, ef_construction=HNSW_EF_CONSTRUCTION, random_seed=SEED)
        index.add_items(matrix, num_threads=threads)
    index.save_index(str(folder / "hnswlib"))
    size = (folder / "hnswlib").stat().st_size

    def search(effort: int) -> Callable[[Floats], NDArray[np.int64]]:
        def run(some: Floats) -> NDArray[np.int64]:
            index.set_ef(max(effort, K))
            return index.knn_query(some, k=K, num_threads=1)[0].astype(np.int64)

        return run

    best = at_bar((search(effort) for effort in EFFORTS), queries, truth)
    found, rate = asked(search(64), queries)
    line("hnswlib", build, size, size, None, None, None, recall(found.tolist(), truth), rate, best)


def of_usearch(matrix: Floats, queries: Floats, truth: NDArray[np.int64], folder: Path, threads: int) -> None:
    from usearch.index import Index

    for dtype in ("f16", "f32"):
        with Building() as build:
            settings = {"metric": "ip", "connectivity": HNSW_LINKS, "expansion_add": HNSW_EF_CONSTRUCTION}
            index = Index(ndim=matrix.shape[1], dtype=dtype, **settings)
            index.add(np.arange(len(matrix)), matrix, threads=threads)
        index.save(str(folder / "usearch"))
        size = (folder / "usearch").stat().st_size

        def search(effort: int, index: Index = index) -> Callable[[Floats], NDArray[np.int64]]:
            def run(some: Floats) -> NDArray[np.int64]:
                index.expansion_search = max(effort, K)
                return np.atleast_2d(index.search(some, K, threads=1).keys).astype(np.int64)

            return run

        best = at_bar((search(effort) for effort in EFFORTS), queries, truth)
        found, rate = asked(search(64), queries)
        line(f"us. {dtype}", build, size, size, None, None, None, recall(found.tolist(), truth), rate, best)


# ---- measuring -------------------------------------------------------------------------------------------------------


def asked(search: Callable[[Floats], NDArray[np.int64]], queries: Floats) -> tuple[NDArray[np.int64], float]:
    """What was found, and queries a second of processor time, which neighbours on the machine disturb least: the best of three
    rounds."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        found = search(queries)
        best = min(best, time.process_time() - began)
    return found, len(queries) / best


def at_bar(searches: Iterator[Callable[[Floats], NDArray[np.int64]]], queries: Floats, truth: NDArray[np.int64]) -> float | None:
    """Queries a second at the least effort that finds enough."""
    for search in searches:
        found, rate = asked(search, queries)
        if recall(found.tolist(), truth) >= BAR:
            return rate
    return None


class Building:
    """Seconds of processor time of what is done while it is entered, and the most memory of its own that it took meanwhile."""

    def __enter__(self) -> Building:
        self._before = self._peak = anonymous()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began
        self._over.set()
        self._watch.join()

    @property
    def peak(self) -> int:
        return self._peak - self._before

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._peak = max(self._peak, anonymous())


def anonymous() -> int:
    """Bytes of this process that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def line(name: str, build: Building, size: int, held: int, opened: float | None, *rest: float | None) -> None:
    one, four, found, rate, best = rest
    print(f"{name:<9}{build.seconds:>9.1f}{build.peak / 1e6:>9.0f}{size / 1e6:>9.1f}{held / 1e6:>10.1f}"
          f"{shown(opened, 8, 3)}{shown(one, 8, 0)}{shown(four, 8, 0)}{shown(found, 8, 4)}{shown(rate, 8, 0)}"
          f"{shown(best, 10, 0)}", flush=True)  # fmt: skip


def shown(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width},.{digits}f}"


if __name__ == "__main__":
    main()
