"""How good a ranking is, in the meaning of trec_eval: nDCG@k, recall@k, MRR@10. Arithmetic over ids, scores and grades.

As trec_eval does, results are ordered by score, equal scores by passage id from the last to the first; gain is the grade,
discount log2(rank + 1) (Järvelin and Kekäläinen 2002, as computed by `ndcg_cut`); means are over all judged queries that were
searched. What was found by several passages counts once, by the best of them (MaxP: Dai and Callan 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from .judgements import Qrels

Run = Mapping[str, Sequence[tuple[str, float]]]
"""Query id -> (id, score) of its results, ids as judgements name them: one may stand there for several passages."""

Search = Callable[[list[str], int], list[list[tuple[str, float]]]]
"""(queries, top_k) -> (id, score) of the results of each."""

DEFAULT_KS = (1, 5, 10, 100)
MRR_DEPTH = 10

_QUERIES_AT_A_TIME = 256


def evaluate(run: Run, qrels: Qrels, ks: Sequence[int] = DEFAULT_KS) -> dict[str, float]:
    """{"nDCG@k", "recall@k" for each of `ks`, "MRR@10"}, each the mean over the queries of `run` that `qrels` judges."""
    judged = [query for query in run if query in qrels]
    if not judged:
        raise ValueError("no query of the run is judged")
    means: dict[str, float] = {}
    ranked = {query: _grades(run[query], qrels[query]) for query in judged}
    for k in ks:
        means[f"nDCG@{k}"] = _mean([ndcg(ranked[query], list(qrels[query].values()), k) for query in judged])
    for k in ks:
        means[f"recall@{k}"] = _mean([recall(ranked[query], list(qrels[query].values()), k) for query in judged])
    means[f"MRR@{MRR_DEPTH}"] = _mean([reciprocal_rank(ranked[query], MRR_DEPTH) for query in judged])
    return means


def evaluate_search(
    search: Search,
    queries: Mapping[str, str],
    qrels: Qrels,
    ks: Sequence[int] = DEFAULT_KS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """As `evaluate`, where every figure at k is that of a search for k results: one for more may look further, and find more."""
    depths = sorted({*ks, MRR_DEPTH})
    found: dict[str, float] = {}
    for number, depth in enumerate(depths):
        done = number * len(queries)

        def told(of_this: int, _: int, done: int = done) -> None:
            if progress is not None:
                progress(done + of_this, len(depths) * len(queries))

        at_depth = evaluate(run_queries(search, queries, depth, told), qrels, [depth])
        found.update({name: value for name, value in at_depth.items() if name.endswith(f"@{depth}")})
    mrr = f"MRR@{MRR_DEPTH}"
    return {name: found[name] for name in (*(f"{measure}@{k}" for measure in ("nDCG", "recall") for k in ks), mrr)}


def ndcg(ranked: Sequence[int], grades: Sequence[int], k: int) -> float:
    """`ranked`: the grade of each result, best first; `grades`: of every judged passage. 0 where none is relevant."""
    ideal = _dcg(sorted(grades, reverse=True)[:k])
    return _dcg(ranked[:k]) / ideal if ideal > 0 else 0.0


def recall(ranked: Sequence[int], grades: Sequence[int], k: int) -> float:
    """The share of the relevant passages among the first k results; 0 where none is relevant."""
    relevant = sum(grade > 0 for grade in grades)
    return sum(grade > 0 for grade in ranked[:k]) / relevant if relevant else 0.0


def reciprocal_rank(ranked: Sequence[int], k: int) -> float:
    """1 / the rank of the first relevant result, 0 beyond k."""
    return next((1.0 / rank for rank, grade in enumerate(ranked[:k], start=1) if grade > 0), 0.0)


def run_queries(
    search: Search, queries: Mapping[str, str], top_k: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, list[tuple[str, float]]]:
    """The results of all `queries` (id -> text), a few hundred at a time; `progress` is told how many are done of how many."""
    ids = list(queries)
    run: dict[str, list[tuple[str, float]]] = {}
    for first in range(0, len(ids), _QUERIES_AT_A_TIME):
        some = ids[first : first + _QUERIES_AT_A_TIME]
        results = search([queries[id_] for id_ in some], top_k)
        run.update(zip(some, results, strict=True))
        if progress is not None:
            progress(len(run), len(ids))
    return run


def _grades(results: Sequence[tuple[str, float]], judged: Mapping[str, int]) -> list[int]:
    best: dict[str, float] = {}
    for id_, score in results:
        best[id_] = max(score, best.get(id_, score))
    by_id = sorted(best.items(), reverse=True)
    ordered = sorted(by_id, key=lambda result: -result[1])
    return [judged.get(id_, 0) for id_, _ in ordered]


def _dcg(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1) if grade > 0)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
