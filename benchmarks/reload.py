"""A pool that is given another index again and again while clients ask: what a swap costs, and whether anything goes wrong.

Two indexes of the same passages under other ids, so that no answer of one is right for the other. Every answer is compared with
the right one for the version that it names. Latencies while a reload runs stand beside those before it, in the same run. The
load is light unless it is told otherwise: 4 callers that pause 50 ms each, so that what is measured is the reload, not a queue.
Ends in the line `reloads N, failed N, wrong N, p99 during/before R, wanted: at most 2`; the exit code is 1 if anything failed or
was wrong, with --strict also if that ratio is above 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bench_parts import free_address
from ragpool.client import Client
from ragpool.index.demo import demo_rows

BIN = Path(sys.executable).parent
TOP_K = 5
RATIO_MAX = 2.0
"""p99 during reloads by p99 outside of them."""
CALM = ""


@dataclass
class Seen:
    """What one caller saw: (label, seconds) of each answer; failures; answers that are not right for the version they name."""

    answers: list[tuple[str, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def build(folder: Path, letter: str, passages: int) -> str:
    """An index of ids that begin with `letter`; its version."""
    corpus = folder / f"{letter}.jsonl"
    with corpus.open("w") as lines:
        for row, _ in zip(demo_rows(), range(passages), strict=False):
            passage = row.passage
            lines.write(json.dumps({"_id": f"{letter}-{passage.id}", "title": passage.title, "text": passage.text[:300]}) + "\n")
    subprocess.run([BIN / "rag-index", "build", "--quiet", corpus, "--out", folder / letter], check=True)
    return str(json.loads((folder / letter / "manifest.json").read_text())["version"])


def questions(count: int) -> list[str]:
    """Beginnings of sentences of the demo corpus."""
    sentences = (s.strip() for row in demo_rows() for s in row.passage.text.split(". "))
    return list(dict.fromkeys(" ".join(s.split()[:12]) for s in sentences if len(s.split()) >= 6))[:count]


@contextmanager
def pool(folder: Path, index: Path, workers: int) -> Iterator[tuple[str, Path]]:
    """(address, run directory) of a pool on CPU workers."""
    url, run_dir = free_address(), folder / "run"
    command = [BIN / "rag-broker", "start", "--index", index, "--workers", str(workers), "--device", "cpu"]
    process = subprocess.Popen([*command, "--frontend", url, "--run-dir", run_dir], stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or not any(line.startswith("ready") for line in process.stdout):
            raise SystemExit("the pool did not start")
        yield url, run_dir
    finally:
        process.terminate()
        process.wait(60)


class Load:
    """`callers` threads that ask all the while; what they see is filed under `label`."""

    def __init__(self, url: str, letters: dict[str, str], callers: int, pause_s: float) -> None:
        self.label = CALM
        self.seen = [Seen() for _ in range(callers)]
        self._letters = letters
        self._pause_s = pause_s
        self._asked = questions(200)
        self._right: dict[str, tuple[str, ...]] = {}
        self._client = Client(url)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n, seen)) for n, seen in enumerate(self.seen)]

    def __enter__(self) -> Load:
        for question in self._asked:  # before any reload: what is right but for the letter
            self._right[question] = tuple(hit.id[2:] for hit in self._client.search(question, top_k=TOP_K))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _call(self, number: int, seen: Seen) -> None:
        while not self._stop.wait(self._pause_s):
            number += 1
            question, label, began = self._asked[number % len(self._asked)], self.label, time.monotonic()
            try:
                hits = self._client.search(question, top_k=TOP_K, timeout=60)
            except Exception as error:
                seen.failed.append(f"{question!r}: {error!r}")
                continue
            seen.answers.append((label or self.label, time.monotonic() - began))
            letter = self._letters.get(hits.index_version, "?")
            found, right = [hit.id for hit in hits], [f"{letter}-{name}" for name in self._right[question]]
            if found != right:
                seen.wrong.append(f"{question!r} by {hits.index_version}: {found}, and right is {right}")


def p99_ms(load: Load, label: str) -> tuple[float, int]:
    """(p99, how many answers) of those that overlap a time of that label."""
    times = [seconds for seen in load.seen for name, seconds in seen.answers if name == label]
    return (float(np.percentile(times, 99)) * 1e3 if times else float("nan")), len(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--pause-ms", type=float, default=50.0, help="of each caller between two questions")
    parser.add_argument("--passages", type=int, default=300)
    parser.add_argument("--calm-s", type=float, default=5.0, help="before the first reload, and after each")
    parser.add_argument("--strict", action="store_true", help=f"exit code 1 also if the ratio is above {RATIO_MAX:g}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        letters = {build(folder, letter, given.passages): letter for letter in "ab"}
        with (
            pool(folder, folder / "a", given.workers) as (url, run_dir),
            Load(url, letters, given.callers, given.pause_ms / 1e3) as load,
        ):
            time.sleep(given.calm_s)
            for number in range(given.reloads):
                swap(load, folder / "ba"[number % 2], run_dir, number + 1)
                time.sleep(given.calm_s / 5)
    sys.exit(report(load, given.reloads, given.strict))


def swap(load: Load, index: Path, run_dir: Path, number: int) -> None:
    load.label = "during"
    began = time.monotonic()
    subprocess.run(
        [BIN / "rag-broker", "reload", "--index", index, "--run-dir", run_dir], check=True, capture_output=True, text=True
    )
    load.label = CALM
    print(f"reload {number} took {time.monotonic() - began:.1f} s", flush=True)


def report(load: Load, reloads: int, strict: bool) -> int:
    """Prints what was seen; the exit code."""
    failed = [line for seen in load.seen for line in seen.failed]
    wrong = [line for seen in load.seen for line in seen.wrong]
    (before, calm), (during, swapped) = p99_ms(load, CALM), p99_ms(load, "during")
    for line in [*failed[:5], *wrong[:5]]:
        print(line)
    print(f"{calm} answers outside of reloads, p99 {before:.1f} ms; {swapped} during reloads, p99 {during:.1f} ms")
    ratio = f"p99 during/before {during / before:.2f}, wanted: at most {RATIO_MAX:g}"
    print(f"reloads {reloads}, failed {len(failed)}, wrong {len(wrong)}, {ratio}")
    return 1 if failed or wrong or (strict and not during / before <= RATIO_MAX) else 0


if __name__ == "__main__":
    main()
