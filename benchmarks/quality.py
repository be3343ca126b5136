"""What each type of index finds, and at what size, on corpora with judgements.

FOLDER holds scifact/ and squad_dev/, each with corpus.jsonl or corpus.jsonl.gz, queries.jsonl and qrels.tsv. Each corpus is
encoded once, on cpu, and built as flat, hnsw and compact at their defaults in a temporary folder. All queries are searched for 10
and 100; recall is the share of what the float64 oracle finds over the float32 rows. Exit code 0: what is wanted is met; 1: it is
not.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from oracle import Oracle
from ragpool.index.build import ENCODING, BuildOptions, build_index
from ragpool.index.cli_text import facts
from ragpool.index.effort import recall
from ragpool.index.encoder import load_index_encoder
from ragpool.index.engine import load_engine
from ragpool.index.evaluate import Run, evaluate
from ragpool.index.index_types import COMPACT, HNSW
from ragpool.index.judgements import read_qrels, read_queries
from ragpool.index.manifest import FLAT
from ragpool.index.store import Index, open_index

JUDGED = "scifact"
DATASETS = (JUDGED, "squad_dev")
TYPES = (FLAT, HNSW, COMPACT)
RECALL_MIN = 0.98
"""Of a compact index, for ten."""
NDCG_OFF_MAX = 0.005
"""Of a compact index of `JUDGED` from the flat one, for ten."""

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class AllEncoded(Exception):
    """Ends a build whose rows are all on disk."""


@dataclass(frozen=True)
class Measured:
    """What an index found: nDCG@10, recall by k, and of a flat one by k how many of the queries are answered as by the oracle."""

    ndcg: float
    recall: dict[int, float]
    right: dict[int, int]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    missing = [name for name in DATASETS if not list((given.folder / name).glob("corpus.jsonl*"))]
    if missing:
        parser.error(f"there is no corpus.jsonl or corpus.jsonl.gz in {given.folder / missing[0]}")
    met = True
    for name in DATASETS:
        with tempfile.TemporaryDirectory() as folder:
            measured, queries = measure(given.folder / name, Path(folder))
        for sentence, is_met in wanted(name, measured, queries):
            print(f"{sentence}: {'met' if is_met else 'NOT MET'}")
            met = met and is_met
        print(flush=True)
    return 0 if met else 1


def measure(data: Path, folder: Path) -> tuple[dict[str, Measured], int]:
    """What each type found in a dataset, of which it prints a line, and how many queries there were."""
    queries, qrels = read_queries(data / "queries.jsonl"), read_qrels(data / "qrels.tsv")
    paths = built(min(data.glob("corpus.jsonl*")), folder)
    with open_index(paths[FLAT]) as index:
        oracle = Oracle(index.vectors.full)
        vectors = load_index_encoder(index.manifest, "cpu").encode(list(queries.values()), "query").vectors
        print(f"{data.name}: {index.count:,} passages, {len(queries):,} queries, {index.manifest.model.name}\n")
    truth = {k: oracle.best(vectors, k) for k in (10, 100)}
    print(f"{'':<8}{'nDCG@10':>9}{'recall@10':>11}{'@100':>8}{'told':>8}{'bytes a vector':>16}{'in memory':>11}")
    measured = {}
    for type_, path in paths.items():
        with open_index(path) as index:
            engine = load_engine(index, "cpu")
            found = {k: engine.search(vectors, k) for k in truth}
            measured[type_] = Measured(
                evaluate(run_of(index, list(queries), *found[10]), qrels, [10])["nDCG@10"],
                {k: recall(rows.tolist(), truth[k]) for k, (_, rows) in found.items()},
                {k: sum(oracle.right(vectors, rows.tolist(), k)) for k, (_, rows) in found.items() if type_ == FLAT},
            )
            print_line(index, measured[type_])
    return measured, len(queries)


def built(corpus: Path, folder: Path) -> dict[str, Path]:
    """An index of each type. A first build ends once all is encoded; each of the others goes on from there, with a copy of it."""

    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == ENCODING and done == total:
            raise AllEncoded

    encoded = folder / "encoded"
    with contextlib.suppress(AllEncoded):
        build_index([corpus], encoded, BuildOptions(device="cpu"), stop)
    for type_ in TYPES:
        shutil.copytree(encoded, folder / type_)
        build_index([corpus], folder / type_, BuildOptions(device="cpu", type=type_))
    return {type_: folder / type_ for type_ in TYPES}


def run_of(index: Index, queries: list[str], scores: Floats, rows: Rows) -> Run:
    """The results of each query, by id."""
    ids = {row: index.passages.get(row)["id"] for row in range(index.count)}
    return {
        query: [(ids[row], score) for row, score in zip(found, values, strict=True) if row >= 0]
        for query, found, values in zip(queries, rows.tolist(), scores.tolist(), strict=True)
    }


def print_line(index: Index, found: Measured) -> None:
    """`told`: the recall@10 that its build told. All of a flat index is mapped; its bfloat16 third is scanned."""
    manifest = index.manifest
    size = facts(manifest)["bytes per vector"]
    held = manifest.search.part_bytes / manifest.count or size
    print(f"{manifest.type:<8}{found.ndcg:>9.4f}{found.recall[10]:>11.4f}{found.recall[100]:>8.4f}"
          f"{manifest.search.recall_at_10:>8.4f}{size:>16,.0f}{held:>11,.0f}  {manifest.factory}", flush=True)  # fmt: skip


def wanted(name: str, measured: dict[str, Measured], queries: int) -> Iterator[tuple[str, bool]]:
    """What is wanted of a dataset, and whether it is met."""
    flat, compact = measured[FLAT], measured[COMPACT]
    for k, right in flat.right.items():
        yield f"{name}: flat answers {right:,} of {queries:,} queries as the oracle at {k}, wanted all", right == queries
    yield (
        f"{name}: compact has recall@10 {compact.recall[10]:.4f}, wanted at least {RECALL_MIN}",
        compact.recall[10] >= RECALL_MIN,
    )
    if name == JUDGED:
        off = abs(compact.ndcg - flat.ndcg)
        yield f"{name}: compact has nDCG@10 {off:.4f} off that of flat, wanted at most {NDCG_OFF_MAX}", off <= NDCG_OFF_MAX


if __name__ == "__main__":
    sys.exit(main())
