"""What one more worker costs in memory: the model, and no second copy of index or passages.

Pools of 1, 2 and 3 CPU workers over an index of random rows. PSS counts what processes share by shares, so that the sum over the
workers is the memory they take together. The last line is `further worker N MiB, of it index files M MiB`, of the last one.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
from baselines.processes import pss_kib
from bench_parts import mappings_kib, table
from local_pool import pool, questions
from made_index import made_index
from ragpool.client import Client
from ragpool.index.build import ensure_demo_index
from ragpool.index.encoder import load_index_encoder
from ragpool.index.manifest import FLAT, read_manifest

STEP = 10_000
ASKED = 64
TURNS = 100
ALONE = 8
NEAR = 64
"""Rows at either end that are the model's own."""


def random_index(folder: Path, count: int) -> Path:
    """A flat index of `count` random unit rows in `folder`, which says that the demo's model made them. It did those at either
    end, some of which a worker encodes again."""
    demo = read_manifest(ensure_demo_index())
    text = "a passage of some length " * 20
    own = load_index_encoder(demo, "cpu").encode([text.strip()], "passage").vectors
    rng = np.random.default_rng(0)
    with open(folder / "rows", "wb") as file:
        for first in range(0, count, STEP):
            rows = rng.standard_normal((min(STEP, count - first), demo.dim), dtype=np.float32)
            file.write((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4").tobytes())
        for row in (0, count - NEAR):
            file.seek(4 * demo.dim * row)
            file.write(own.astype("<f4").tobytes() * NEAR)
    return made_index(folder / "rows", count, demo.dim, folder / "index", FLAT, 1, text=text, like=demo)


def measure(index: Path, workers: int, port: int) -> tuple[float, dict[str, int]]:
    """(MiB PSS of all workers, KiB of their mappings of the index) after each has searched."""
    with pool(port, "--index", str(index), "--workers", str(workers)) as url, Client(url) as client:
        asked = iter(questions(ASKED * workers * TURNS))
        while not all(worker["served"] for worker in client.status()["workers"]):
            turn = list(itertools.islice(asked, ASKED * workers))
            if not turn:
                raise SystemExit(f"a worker has served nothing after {TURNS} turns of {ASKED * workers} queries")
            client.search_many(turn, top_k=5)
        for query in questions(ALONE * workers):  # a query alone may be searched in other rows than a batch
            client.search(query, top_k=5)
        pids = [worker["pid"] for worker in client.status()["workers"]]
        mapped: dict[str, int] = {}
        for pid in pids:
            for name, kib in mappings_kib(pid, index).items():
                mapped[name] = mapped.get(name, 0) + kib
        return sum(map(pss_kib, pids)) / 1024, mapped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=300_000)
    parser.add_argument("--workers", type=int, default=3, help="the largest pool [3]")
    parser.add_argument("--port", type=int, default=5597)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ragpool-memory-") as folder:
        index = random_index(Path(folder).resolve(), options.vectors)
        size = sum(file.stat().st_size for file in index.iterdir()) / 2**20
        found = [measure(index, workers, options.port) for workers in range(1, options.workers + 1)]
    titles = ("workers", "PSS MiB", "more than before", "index files Rss MiB", "their Pss", "private dirty")
    rows = []
    for number, (pss, mapped) in enumerate(found):
        more = f"{pss - found[number - 1][0]:.0f}" if number else ""
        of_index = (f"{mapped.get(name, 0) / 1024:.0f}" for name in ("Rss", "Pss", "Private_Dirty"))
        rows.append((number + 1, f"{pss:.0f}", more, *of_index))
    print(table(titles, rows))
    print(f"{options.vectors} rows, {size:.0f} MiB of index files")
    if len(found) > 1:
        further = found[-1][0] - found[-2][0]
        files = (found[-1][1]["Pss"] - found[-2][1]["Pss"]) / 1024
        print(f"further worker {further:.0f} MiB, of it index files {files:.0f} MiB")


if __name__ == "__main__":
    main()
