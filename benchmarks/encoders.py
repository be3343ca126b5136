"""Milliseconds of CPU a query on one core: sentence-transformers' own `encode` and every backend, in one interleaved run.

    python benchmarks/encoders.py [QUERIES.txt] [--rounds 5]

CPU time, the best of the rounds: what else the machine does hardly bends it.
Queries go in as they come, so padding is part of it.
Errors are the largest absolute difference of a value from sentence-transformers in float32. The lower table says where most
of the difference comes from: one product of a layer, by who multiplies.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1"))
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ragpool.index.backends import RunningTorch
from ragpool.index.calibrate import sample_queries
from ragpool.index.encoder import load_encoder, plain_tokenizer
from ragpool.index.model_loading import load_model
from ragpool.index.models import DEFAULT_MODEL, resolve_model
from ragpool.index.runtimes import missing
from ragpool.index.tokens import padded, tokenize

BATCHES = (1, 8, 32)
QUERIES = 64
WAYS = (("torch", "float32"), ("onnx", "float32"), ("openvino", "float32"),
        ("torch", "bfloat16"), ("openvino", "bfloat16"), ("onnx", "int8"))  # fmt: skip

Encode = Callable[[list[str]], np.ndarray[Any, Any]]


def ways() -> dict[str, Encode]:
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(resolve_model(DEFAULT_MODEL), device="cpu")
    cpu = torch.device("cpu")
    bare = load_model(DEFAULT_MODEL, cpu, "float32")
    tokenizer, running = plain_tokenizer(bare.model), RunningTorch(bare.model, cpu)

    def direct(texts: list[str]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            return running.run(padded(tokenizer, tokenize(tokenizer, texts, bare.max_length).ids, cpu)).numpy()

    found: dict[str, Encode] = {
        "sentence-transformers encode": lambda texts: library.encode(texts, batch_size=64, show_progress_bar=False),
        "its modules, called directly": direct,
    }
    for backend, dtype in WAYS:
        if not missing(backend):
            encoder = load_encoder(DEFAULT_MODEL, "cpu", dtype, backend=backend)
            found[f"{backend} {dtype}"] = lambda texts, encoder=encoder: encoder.encode(texts).vectors
    return found


def measure(found: dict[str, Encode], queries: list[str], rounds: int) -> dict[tuple[str, int], float]:
    best: dict[tuple[str, int], float] = {}
    for _ in range(rounds):
        for size in BATCHES:
            some = queries[: QUERIES // 4] if size == 1 else queries
            for name, encode in found.items():
                began = time.process_time()
                for first in range(0, len(some), size):
                    encode(some[first : first + size])
                spent = (time.process_time() - began) / len(some) * 1e3
                best[name, size] = min(spent, best.get((name, size), np.inf))
    return best


def products() -> dict[str, float]:
    """Gflop/s of 112 x 384 by 384 x 1536, as in a batch of eight queries."""
    features, weight, bias = torch.randn(112, 384), torch.randn(1536, 384), torch.randn(1536)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight)
    kinds = {
        "torch linear (MKL)": lambda: torch.nn.functional.linear(features, weight, bias),
        "oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(features, weight, bias, "none", [], ""),
        "oneDNN, weights laid out": lambda: torch.ops.mkldnn._linear_pointwise(features, laid_out, bias, "none", [], ""),
    }
    best = dict.fromkeys(kinds, np.inf)
    with torch.inference_mode():
        for _ in range(30):
            for name, product in kinds.items():
                began = time.process_time()
                for _ in range(10):
                    product()
                best[name] = min(best[name], (time.process_time() - began) / 10)
    return {name: 2 * 112 * 384 * 1536 / spent / 1e9 for name, spent in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queries", nargs="?", type=Path, help="one a line")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    queries = given.queries.read_text(encoding="utf-8").splitlines()[:QUERIES] if given.queries else sample_queries(QUERIES)
    found = ways()
    truth = found["sentence-transformers encode"](queries)
    errors = {name: float(np.abs(encode(queries) - truth).max()) for name, encode in found.items()}
    best = measure(found, queries, given.rounds)
    print(f"{'ms of CPU a query, batches of':32}" + "".join(f"{size:>8}" for size in BATCHES) + "     error")
    for name in found:
        print(f"{name:32}" + "".join(f"{best[name, size]:8.2f}" for size in BATCHES) + f"   {errors[name]:.1e}", flush=True)
    print()
    for name, rate in products().items():
        print(f"{name:32}{rate:8.0f} Gflop/s")


if __name__ == "__main__":
    main()
