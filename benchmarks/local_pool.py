"""A pool of our own on this machine and questions for it: what the measurements inside a pool share. `make bench` compares it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baselines import corpus
from ragpool.client import Client

TOP_K = 5
BATCH = 32

READY_S = 180.0
"""How long the last worker may take to load."""


def questions(count: int) -> list[str]:
    """Distinct queries of natural length: the beginnings of sentences of the demo corpus."""
    return list(itertools.islice(corpus.rotations(corpus.demo_questions()), count))


@contextmanager
def pool(port: int, *flags: str) -> Iterator[str]:
    """A pool of CPU workers, two of them on the demo index unless `flags` say otherwise; its address once all are ready."""
    url = f"tcp://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as run_dir:
        command = [str(Path(sys.executable).parent / "rag-broker"), "start", "--device", "cpu"]
        command += flags or ("--demo", "--workers", "2")
        process = subprocess.Popen([*command, "--frontend", url, "--run-dir", run_dir], stdout=subprocess.PIPE, text=True)
        try:
            if process.stdout is None or not any(line.startswith("ready") for line in process.stdout):
                raise SystemExit("the pool did not start")
            _until_all_ready(url)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def _until_all_ready(url: str) -> None:
    """The pool itself is ready once one worker answers."""
    give_up = time.monotonic() + READY_S
    with Client(url) as client:
        while (told := client.status()) and sum(one["state"] == "ready" for one in told["workers"]) < len(told["slots"]):
            if time.monotonic() > give_up:
                raise SystemExit(f"not all workers were ready within {READY_S:g} s")
            time.sleep(0.1)
