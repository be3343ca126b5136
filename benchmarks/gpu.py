"""What a GPU does here, in one command: are the answers right, how fast is it alone, and how much of that does a pool reach.

1. Every dtype of the encoder against the model in float64 on the CPU, by cosine and by the ids found.
2. The exact engine on the device, and faiss there where it is installed, as workers load them: against a float64 product, and
   milliseconds by size of batch.
3. Queries a second of encode + search in this process, by size of batch: the largest is the ceiling.
4. Pools of 1, 2 and 4 workers on the one device: queries a second that `rag-bench` gets from processes of its own, share of the
   ceiling, utilisation as NVML sees it, and the notes of `rag-bench`.

`--device cpu` runs the same code where there is no GPU: it shows that the program works, and nothing about a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_parts import table
from local_pool import TOP_K, pool, questions
from numpy.typing import NDArray
from oracle import Oracle
from ragpool.index.build import ensure_demo_index
from ragpool.index.engine import EXACT, FAISS, Engine, load_engine
from ragpool.index.errors import ConfigurationError
from ragpool.index.store import Index, open_index
from utilisation import Utilisation

Floats = NDArray[np.float32]

DTYPES = ("float32", "bfloat16", "float16")
SIZES = (1, 4, 16, 64, 256)
SEARCHED = (1, 16, 64, 256)


# ---- correctness ---------------------------------------------------------------------------------------------------


def check_dtypes(index: Index, device: str, asked: Sequence[str]) -> list[tuple[object, ...]]:
    """Each dtype of the encoder against the model in float64 on the CPU."""
    from ragpool.index.encoder import load_index_encoder

    truth = in_float64(index, asked)
    rows = np.array(index.vectors.full, np.float64)
    best = np.argsort(-(truth @ rows.T), axis=1, kind="stable")[:, :TOP_K]
    lines: list[tuple[object, ...]] = []
    for dtype in DTYPES:
        try:
            given = load_index_encoder(index.manifest, device, dtype).encode(asked).vectors.astype(np.float64)
        except Exception as error:  # what this device cannot do is a line of the table
            lines.append((dtype, "refused", str(error)[:60]))
            continue
        cosine = (truth * given).sum(axis=1) / np.linalg.norm(truth, axis=1) / np.linalg.norm(given, axis=1)
        ids = np.argsort(-(given @ rows.T), axis=1, kind="stable")[:, :TOP_K]
        kept = np.mean([len(set(a) & set(b)) / TOP_K for a, b in zip(best.tolist(), ids.tolist(), strict=True)])
        lines.append((dtype, f"{cosine.min():.6f}", f"{kept:.4f}"))
    return lines


def in_float64(index: Index, asked: Sequence[str]) -> NDArray[np.float64]:
    """The vectors of queries by the library itself, with every weight and every sum in float64."""
    import torch
    from ragpool.index.model_loading import load_model

    manifest = index.manifest
    model = load_model(manifest.model.name, torch.device("cpu"), "float32", manifest.normalized).model.double()
    vectors = model.encode(list(asked), prompt=manifest.query_prefix or None, normalize_embeddings=manifest.normalized)
    return np.asarray(vectors, np.float64)


def engines(index: Index, device: str) -> dict[str, Engine | None]:
    """The engines as a worker would load them; None for one that cannot be had here."""
    found: dict[str, Engine | None] = {}
    for name in (EXACT, FAISS):
        try:
            found[name] = load_engine(index, device, name)
        except ConfigurationError:
            found[name] = None
    return found


def check_engines(loaded: Mapping[str, Engine | None], oracle: Oracle, queries: Floats) -> list[tuple[object, ...]]:
    """Each engine against a float64 product over the rows as they are stored."""
    lines: list[tuple[object, ...]] = []
    for name, engine in loaded.items():
        if engine is None:
            lines.append((name, "not installed for this device", ""))
            continue
        right = {k: sum(oracle.right(queries, engine.search(queries, k)[1].tolist(), k)) for k in (5, 10, 100)}
        lines += [(name, f"k = {k}", f"{count} of {len(queries)}") for k, count in right.items()]
    return lines


# ---- speed ---------------------------------------------------------------------------------------------------------


def search_times(loaded: Mapping[str, Engine | None], queries: Floats, seconds: float) -> list[tuple[object, ...]]:
    """A line for each size of batch: milliseconds of each engine, the median of searches that take turns."""
    there = {name: engine for name, engine in loaded.items() if engine is not None}
    lines: list[tuple[object, ...]] = []
    for size in SEARCHED:
        batch = np.resize(queries, (size, queries.shape[1]))
        took: dict[str, list[float]] = {name: [] for name in there}
        for engine in there.values():
            engine.search(batch, TOP_K)
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends or not all(took.values()):
            for name, engine in there.items():
                began = time.perf_counter()
                engine.search(batch, TOP_K)
                took[name].append((time.perf_counter() - began) * 1e3)
        lines.append((size, *(f"{statistics.median(took[name]):.3f}" if name in took else "none" for name in loaded)))
    return lines


def in_process(
    index: Index, device: str, dtype: str, loaded: Mapping[str, Engine | None], asked: Sequence[str], seconds: float
) -> dict[int, float]:
    """Queries a second of encode + search + fetch by size of batch, sorted by length, with the engine that is quicker."""
    from ragpool.index.encoder import load_index_encoder

    encoder = load_index_encoder(index.manifest, device, dtype)
    found: dict[int, float] = {}
    for size, engine in itertools.product(SIZES, filter(None, loaded.values())):
        batches = [sorted(asked[at : at + size], key=len) for at in range(0, len(asked) - size + 1, size)]

        def work(batch: Sequence[str], engine: Engine = engine) -> None:
            _, rows = engine.search(encoder.encode(batch).vectors, TOP_K)
            [index.passages.raw(row) for row in rows.ravel().tolist()]

        work(batches[0])
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            work(batches[done % len(batches)])
            done += 1
        found[size] = max(found.get(size, 0.0), done * size / (time.perf_counter() - began))
    return found


def burst(url: str, count: int) -> float:
    """Milliseconds until the last of `count` single requests to an idle pool is answered."""
    from ragpool.client import Client

    with Client(url) as client:
        client.search("warm up")
        began = time.perf_counter()
        for future in [client.submit(f"query {n} of a burst", top_k=TOP_K) for n in range(count)]:
            future.result()
        return (time.perf_counter() - began) * 1e3


def load(url: str, asked: Path, options: argparse.Namespace) -> tuple[float, list[str]]:
    """(queries a second, what rag-bench notes) of closed loops that ask the lines of the file `asked`, made by processes of their
    own. Raises `SystemExit` where none is answered, or not all are."""
    command = [sys.executable, "-m", "ragpool.client.bench", "--json", "--broker", url, "--queries", str(asked), "-k", str(TOP_K)]
    command += ["--concurrency", str(options.callers), "--processes", str(options.processes), "--duration", str(options.pool_s)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"rag-bench ended with {done.returncode}")
    (row,) = json.loads(done.stdout)["rows"]
    if row["errors"] or row["unanswered"]:
        raise SystemExit(f"of {row['requests']} queries {row['unanswered']} were not answered, others failed: {row['errors']}")
    return row["qps"], row["notes"]


def in_pools(
    device: str, asked: Path, options: argparse.Namespace, ceiling: float
) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """(a line for each number of workers: what closed loops of `callers` reach; what rag-bench notes to them)."""
    lines: list[tuple[object, ...]] = []
    noted: list[tuple[object, ...]] = []
    for workers in options.workers:
        flags = ("--demo", "--device", device, "--workers", str(workers))
        with pool(options.port, *flags) as url:
            with Utilisation(device) as utilisation:
                rate, notes = load(url, asked, options)
            one = statistics.median(burst(url, 1) for _ in range(5))
            ten = statistics.median(burst(url, 10) for _ in range(5))
        bursts = (f"{one:.1f}", f"{ten:.1f}", f"{ten / one:.2f}")
        lines.append((workers, f"{rate:.0f}", f"{rate / ceiling:.2f}", utilisation, *bursts))
        noted += [(note, workers) for note in notes]
    return lines, noted


# ---- the command ---------------------------------------------------------------------------------------------------


def chosen_device(given: str | None) -> str:
    """Refuses, with one sentence, where no device is named and no GPU is seen."""
    from ragpool.index.devices import devices_seen, resolve_device

    if given is None and not any(name.startswith("cuda") for name in devices_seen()):
        raise SystemExit("there is no CUDA device here: run this where there is one, or say --device cpu to try the program")
    return str(resolve_device(given or "cuda"))


def device_name(device: str) -> str:
    import torch

    return str(torch.cuda.get_device_name(torch.device(device))) if device.startswith("cuda") else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="cuda:N, or cpu to try the program [the first CUDA device]")
    parser.add_argument("--dtype", default="auto", help="of the ceiling's encoder [auto, as a pool's]")
    parser.add_argument("--workers", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--callers", type=int, default=500)
    parser.add_argument("--processes", type=int, default=4, help="that make the load of the pools [4]")
    parser.add_argument("--queries", type=int, default=100_000, help="different ones for the pools [100,000]")
    parser.add_argument("--pool-s", type=float, default=10.0, help="measured of each pool [10]")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each size of batch [3]")
    parser.add_argument("--checked", type=int, default=500, help="queries whose answers are checked")
    parser.add_argument("--port", type=int, default=5596)
    parser.add_argument("--out", type=Path, help="a folder for the figures, as JSON with device and date")
    options = parser.parse_args()
    device = chosen_device(options.device)
    index = open_index(ensure_demo_index())
    asked = questions(max(options.queries, options.checked, 1_000))
    sections: dict[str, Any] = {}

    def show(title: str, titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        sections[title] = [dict(zip(titles, map(str, row), strict=True)) for row in rows]
        print(f"\n{title}\n{table(titles, rows)}", flush=True)

    print(f"{device_name(device)}, {datetime.date.today()}")
    dtypes = check_dtypes(index, device, asked[: options.checked])
    show("encoder against float64 on the CPU", ("dtype", "least cosine", f"top {TOP_K} kept"), dtypes)
    queries = np.array(index.vectors.full[:: max(1, index.count // options.checked)][: options.checked])
    noise = np.random.default_rng(0).standard_normal(queries.shape).astype(np.float32)
    loaded, near = engines(index, device), queries + 0.02 * noise
    checked = check_engines(loaded, Oracle(index.vectors.full), near)
    show("engines against float64", ("engine", "asked", "exact"), checked)
    times = search_times(loaded, near, options.seconds)
    show("ms to search a batch", ("batch", *loaded), times)
    alone = in_process(index, device, options.dtype, loaded, asked, options.seconds)
    show("in this process", ("batch", "q/s"), [(size, f"{rate:.0f}") for size, rate in alone.items()])
    titles = ("workers", "q/s", "of ceiling", "utilisation", "burst 1 ms", "burst 10 ms", "ratio")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(asked))
        file.flush()
        pools, notes = in_pools(device, Path(file.name), options, max(alone.values()))
    show("pools on this device", titles, pools)
    show("what rag-bench notes", ("note", "workers"), notes)
    if options.out is not None:
        with contextlib.suppress(FileExistsError):
            options.out.mkdir(parents=True)
        name = f"gpu-{device_name(device).replace(' ', '-')}-{datetime.date.today()}.json"
        (options.out / name).write_text(json.dumps({"device": device_name(device), **sections}, indent=1) + "\n")


if __name__ == "__main__":
    main()
