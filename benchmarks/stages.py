"""Where the time of a worker goes while the pool is saturated, and the least that the processor would need for the same work.

Two CPU workers on the demo index or another, C callers with one query each. What a batch spends in its stages rides in its
replies; the rest is processor time of threads and processes, from /proc. All in milliseconds a query. The floor is the arithmetic
of the model and the bytes of the rows, against the rates that this processor reaches in the same run on one core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from baselines.processes import cpu_s
from bench_parts import table, threads_cpu_s
from local_pool import BATCH, TOP_K, pool, questions
from ragpool.client import Client
from ragpool.index.demo import demo_index_dir

STAGES = ("tokenize", "encode", "search", "fetch")
_SAMPLES = 7

Batch = tuple[tuple[str, float], ...]


class Saturation:
    """Closed loop of `callers`; `batches`: the stages of every batch that was answered, by its worker's own clock."""

    def __init__(self, client: Client, callers: int) -> None:
        self._client = client
        self._callers = callers
        self._answered: list[str] = []
        self.batches: set[Batch] = set()

    def run(self, asked: list[str]) -> float:
        """Seconds that it took. Raises `SystemExit` where a query fails."""
        left, lock = iter(asked), threading.Lock()

        def call() -> None:
            while True:
                with lock:
                    query = next(left, None)
                if query is None:
                    return
                timings = self._client.search(query, top_k=TOP_K).timings_ms
                self.batches.add(tuple((stage, timings[stage]) for stage in STAGES))
                self._answered.append(query)

        threads = [threading.Thread(target=call) for _ in range(self._callers)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(self._answered) < len(asked):
            raise SystemExit(f"{len(asked) - len(self._answered)} of {len(asked)} queries were not answered")
        return time.perf_counter() - began


def processes(client: Client) -> tuple[int, list[int]]:
    """The broker's process and those of the workers."""
    status = client.status()
    return status["broker"]["pid"], [worker["pid"] for worker in status["workers"]]


def measure(url: str, callers: int, asked: list[str]) -> list[tuple[str, float]]:
    """(what, milliseconds a query) in the order of a request's way, and (queries a second) last."""
    with Client(url) as client:
        Saturation(client, callers).run(questions(200))
        broker, workers = processes(client)
        before, broker_s = [threads_cpu_s(pid) for pid in workers], cpu_s(broker)
        own, run = time.process_time(), Saturation(client, callers)
        took = run.run(asked)
        own = time.process_time() - own
        after, broker_s = [threads_cpu_s(pid) for pid in workers], cpu_s(broker) - broker_s
    per_query = 1e3 / len(asked)
    stages = {stage: sum(dict(batch)[stage] for batch in run.batches) / len(asked) for stage in STAGES}
    used = [_used(*pair) for pair in zip(before, after, strict=True)]
    loops = sum(each.pop(pid, 0.0) for each, pid in zip(used, workers, strict=True)) * per_query
    rest = sum(sum(each.values()) for each in used) * per_query
    other = max(0.0, rest - sum(stages.values()))
    wall = took * len(workers) * per_query
    return [
        *((f"worker: {stage}", ms) for stage, ms in stages.items()),
        ("worker: batches and replies, and ZeroMQ's thread", other),
        ("worker: I/O thread", loops),
        ("broker", broker_s * per_query),
        ("client", own * per_query),
        ("workers and others waiting for each other", wall - sum(stages.values()) - other - loops),
        ("a core's time a query", wall),
        ("queries a second", len(asked) / took),
    ]


def _used(before: dict[int, float], after: dict[int, float]) -> dict[int, float]:
    return {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}


# ---- the floor -----------------------------------------------------------------------------------------------------


def best_s(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of a few runs."""
    found = []
    for _ in range(_SAMPLES):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def floor(index_dir: Path, asked: list[str]) -> list[tuple[str, str]]:
    """What model and rows ask of one core, and what it gives."""
    import torch
    from ragpool.index.model_loading import load_model
    from ragpool.index.packed import PackedLinear
    from ragpool.index.store import open_index

    torch.set_num_threads(1)
    index = open_index(index_dir)
    model = load_model(index.manifest.model.name, torch.device("cpu"), "float32", index.manifest.normalized).model
    tokens = statistics.mean(len(ids) for ids in model.tokenizer(asked)["input_ids"])
    unused = ("embeddings", "pooler")  # looked up, and loaded but not run
    weights = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and not any(word in name for word in unused))
    multiplied = 2 * weights * tokens
    tokens_at_once, layer = torch.randn(256, 384), torch.nn.Linear(384, 1536)
    with torch.inference_mode():
        products: list[Callable[[], Any]] = [lambda: layer(tokens_at_once)]
        if torch._C._has_mkldnn:
            packed = PackedLinear(layer)
            products.append(lambda: packed(tokens_at_once))
        rate = 2 * tokens_at_once.shape[0] * 384 * 1536 / min(map(best_s, products))
    wide_a, wide_b = torch.randn(BATCH, index.dim).bfloat16(), torch.randn(32_768, index.dim).bfloat16()
    half_rate = 2 * BATCH * wide_b.numel() / best_s(lambda: wide_a @ wide_b.T)
    large = np.ones(1 << 27, np.uint8).view(np.uint64)
    bandwidth = large.nbytes / best_s(large.sum)
    scanned = 2 * index.count * index.dim
    return [
        ("float32 products reach", f"{rate / 1e9:.0f} GFLOP/s"),
        ("bfloat16 products with rows reach", f"{half_rate / 1e9:.0f} GFLOP/s"),
        ("memory gives", f"{bandwidth / 1e9:.1f} GB/s"),
        ("encode, per query", f"{tokens:.1f} tokens, {multiplied / 1e9:.2f} GFLOP: {multiplied / rate * 1e3:.2f} ms"),
        ("search, per query of a batch", f"{scanned / 1e6:.0f} MFLOP: {scanned / half_rate * 1e3:.3f} ms"),
        ("search, a query alone", f"{scanned / 1e6:.0f} MB: {scanned / bandwidth * 1e3:.2f} ms where they are not cached"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=100)
    parser.add_argument("--queries", type=int, default=1500)
    parser.add_argument("--port", type=int, default=5598)
    parser.add_argument("--index", type=Path, default=None, help="[the demo index]")
    options = parser.parse_args()
    asked = questions(200 + options.queries)[200:]
    flags = ("--index", str(options.index), "--workers", "2") if options.index else ()
    with pool(options.port, *flags) as url:
        found = measure(url, options.callers, asked)
    (_, wall), (_, rate) = found[-2:]
    print(table(("stage", "ms a query", "share"), [(what, f"{ms:.3f}", f"{ms / wall:.1%}") for what, ms in found[:-1]]))
    print(f"{rate:.0f} queries a second with {options.callers} callers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(table(("the floor, on one core", ""), floor(options.index or demo_index_dir(), asked)))


if __name__ == "__main__":
    main()
