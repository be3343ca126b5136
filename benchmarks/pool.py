"""A pool of two CPU workers on the demo index against the same work without any server, in one run, interleaved.

Closed loop: C callers ask one query each and wait for it. Every query is asked once. The ceiling is two processes of one thread
that encode and search batches of 16, sorted by length within windows of 100, with nobody to talk to. CPU is that of the two
worker processes, of all their threads. Read the ratios; the figures are this machine's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_parts import cpu_s, percentile, table
from ragpool.client import Client
from ragpool.conf.cores import thread_environment
from ragpool.index.demo import demo_index_dir, demo_rows

TOP_K = 5
BATCH = 16
WINDOW = 100
ROUNDS = 3


def questions(count: int) -> list[str]:
    """Distinct queries of natural length: the beginnings of sentences of the demo corpus."""
    sentences = (s.strip() for row in demo_rows() for s in row.passage.text.split(". "))
    words = (" ".join(sentence.split()[:12]) for sentence in sentences if len(sentence.split()) >= 6)
    found = list(itertools.islice(dict.fromkeys(words), count))
    return [found[n % len(found)] + (f" {n}" if n >= len(found) else "") for n in range(count)]


@contextmanager
def pool(port: int, *flags: str) -> Iterator[str]:
    """A pool of CPU workers, two of them on the demo index unless `flags` say otherwise; its address."""
    url = f"tcp://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as run_dir:
        command = [str(Path(sys.executable).parent / "rag-broker"), "start", "--device", "cpu"]
        command += flags or ("--demo", "--workers", "2")
        process = subprocess.Popen([*command, "--frontend", url, "--run-dir", run_dir], stdout=subprocess.PIPE, text=True)
        try:
            if process.stdout is None or not any(line.startswith("ready") for line in process.stdout):
                raise SystemExit("the pool did not start")
            yield url
        finally:
            process.terminate()
            process.wait(60)


def closed_loop(url: str, asked: list[str], callers: int) -> tuple[float, list[float]]:
    """(queries a second, milliseconds of each) with `callers` that each wait for their answer."""
    left, latencies, lock = iter(asked), [], threading.Lock()

    def call() -> None:
        while True:
            with lock:
                query = next(left, None)
            if query is None:
                return
            began = time.perf_counter()
            client.search(query, top_k=TOP_K)
            latencies.append((time.perf_counter() - began) * 1e3)

    with Client(url) as client:
        client.search("warm up")
        threads = [threading.Thread(target=call) for _ in range(callers)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(asked) / (time.perf_counter() - began), latencies


def without_server() -> None:
    """Run as a process of its own: read queries, answer them all, print the seconds it took."""
    from ragpool.index.encoder import load_index_encoder
    from ragpool.index.engine import load_engine
    from ragpool.index.store import open_index

    index = open_index(demo_index_dir())
    encoder, engine = load_index_encoder(index.manifest, "cpu"), load_engine(index, "cpu", "exact")
    asked = json.loads(sys.stdin.readline())
    asked = [text for at in range(0, len(asked), WINDOW) for text in sorted(asked[at : at + WINDOW], key=len)]
    engine.search(encoder.encode(["warm up"]).vectors, TOP_K)
    print("loaded", flush=True)
    sys.stdin.readline()
    began, used = time.perf_counter(), time.process_time()
    for start in range(0, len(asked), BATCH):
        _, rows = engine.search(encoder.encode(asked[start : start + BATCH]).vectors, TOP_K)
        [index.passages.raw(row) for row in rows.ravel().tolist()]
    print(time.perf_counter() - began, time.process_time() - used, flush=True)


def ceiling(asked: list[str]) -> tuple[float, float]:
    """(queries a second, CPU seconds a query) of two processes that share `asked` and run at the same time."""
    environment = {**os.environ, **thread_environment(1)}
    command = [sys.executable, __file__, "--without-server"]
    twins = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)
    ]
    for number, twin in enumerate(twins):
        twin.stdin.write(json.dumps(asked[number::2]) + "\n")
        twin.stdin.flush()
    for twin in twins:
        twin.stdout.readline()
    for twin in twins:
        twin.stdin.write("go\n")
        twin.stdin.flush()
    took, used = zip(*(map(float, twin.stdout.readline().split()) for twin in twins), strict=True)
    for twin in twins:
        twin.wait(30)
    return len(asked) / max(took), sum(used) / len(asked)


def workers_cpu_s(url: str) -> float:
    """CPU seconds that all workers of the pool used so far."""
    with Client(url) as client:
        return sum(cpu_s(worker["pid"]) for worker in client.status()["workers"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=600, help="queries a point and round")
    parser.add_argument("--port", type=int, default=5599)
    parser.add_argument("--without-server", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.without_server:
        return without_server()
    asked = iter(questions(options.queries * ROUNDS * 5))
    rates: dict[int, list[float]] = {1: [], 10: [], 100: [], 500: []}
    latencies: dict[int, list[float]] = {callers: [] for callers in rates}
    cpu: dict[int, list[float]] = {callers: [] for callers in rates}
    ceilings = []
    for _ in range(ROUNDS):
        with pool(options.port) as url:
            for callers in rates:
                count = min(options.queries, 100) if callers == 1 else options.queries
                before = workers_cpu_s(url)
                rate, took = closed_loop(url, list(itertools.islice(asked, count)), callers)
                cpu[callers].append((workers_cpu_s(url) - before) / count)
                rates[callers].append(rate)
                latencies[callers] += took
        ceilings.append(ceiling(list(itertools.islice(asked, options.queries))))
    rate_titles = ("callers", "q/s", "p50 ms", "p99 ms", "longest", "of ceiling", "cpu of ceiling's")
    top, least_cpu = (statistics.median(each) for each in zip(*ceilings, strict=True))
    rows = []
    for callers, found in rates.items():
        rate, took = statistics.median(found), latencies[callers]
        figures = (percentile(took, 0.5), percentile(took, 0.99), max(took))
        ratios = (rate / top, statistics.median(cpu[callers]) / least_cpu)
        rows.append((callers, f"{rate:.0f}", *(f"{ms:.1f}" for ms in figures), *(f"{ratio:.2f}" for ratio in ratios)))
    print(table(rate_titles, rows))
    print(f"ceiling {top:.0f} q/s, {least_cpu * 1e3:.2f} ms of CPU a query: two processes, no server, batches of {BATCH}")
    return None


if __name__ == "__main__":
    main()
