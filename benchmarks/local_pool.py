"""A pool of our own on this machine and questions for it: what the measurements inside a pool share. `make bench` compares it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baselines import corpus
from ragpool.client import Client

TOP_K = 5
BATCH = 16


def questions(count: int) -> list[str]:
    """Distinct queries of natural length: the beginnings of sentences of the demo corpus."""
    return list(itertools.islice(corpus.rotations(corpus.demo_questions()), count))


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
