"""The known right answers: float64 inner products of the index's rows with the vectors of sentence-transformers' own `encode`.

Run as a program, so that the load generator never loads torch: questions as JSON on stdin; for each, the scores of its nearest
passages on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NEAREST = 40
_BENCHMARKS = Path(__file__).resolve().parent.parent
Scores = dict[str, float]
"""Score by passage id."""


def known_answers(index: Path, queries: Sequence[str]) -> dict[str, Scores]:
    """The scores of the `NEAREST` passages of each query."""
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.truth", str(index)],
        input=json.dumps(list(queries)),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(_BENCHMARKS)},
    )
    if done.returncode:
        raise SystemExit(f"the right answers could not be computed: {done.stderr[-500:]}")
    return dict(zip(queries, json.loads(done.stdout), strict=True))


def main() -> None:
    import numpy as np
    from ragpool.index.models import resolve_model
    from ragpool.index.store import open_index
    from sentence_transformers import SentenceTransformer

    queries = json.load(sys.stdin)
    index = open_index(sys.argv[1])
    manifest = index.manifest
    model = SentenceTransformer(resolve_model(manifest.model.name), device="cpu")
    vectors = model.encode([manifest.query_prefix + query for query in queries], normalize_embeddings=manifest.normalized)
    scores = vectors.astype(np.float64) @ np.asarray(index.vectors.full, np.float64).T
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]
    found = [{index.passages.get(row)["id"]: of[row] for row in rows} for of, rows in zip(scores, nearest.tolist(), strict=True)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
