"""The right answers, worked out once without any pool: the stored encoder, and a product in float64 over the stored rows.

Run as a program, so that torch stays out of the process that does the faults: `python -m chaos.oracle INDEX OUT`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

TOP_K = 5
APART = 1e-5
"""Only questions whose best passages differ by more than this in score are asked: then there is one right order."""

_SUBJECTS = (
    "a class", "a function", "an exception", "a module", "a list", "a loop", "a generator", "an operator", "a lambda", "scope",
    "a decorator", "a context", "an import", "a string", "a number", "a comparison", "an attribute", "a slice", "a dictionary",
    "an assignment", "a coroutine", "a metaclass", "a closure", "an annotation",
)  # fmt: skip
_ASKS = (
    "how do I define {}", "what is {} for", "when does {} raise an error", "the syntax of {}", "an example of {}",
    "may {} be empty", "who evaluates {}", "why is {} not hashable", "{} inside another one", "the name of {}",
)  # fmt: skip


def questions() -> list[str]:
    return [ask.format(subject) for subject in _SUBJECTS for ask in _ASKS]


def expected(index: Path) -> dict[str, list[str]]:
    """Question to the ids of its best passages, in order."""
    from ragpool.index.encoder import load_index_encoder
    from ragpool.index.store import open_index

    with open_index(index) as opened:
        rows = np.array(opened.vectors.full, np.float64)
        ids = [opened.passages.get(row)["id"] for row in range(opened.count)]
        encoder = load_index_encoder(opened.manifest, "cpu", "float32", "", 16_384)
        asked = questions()
        vectors = encoder.encode(asked).vectors.astype(np.float64)
    answers = {}
    for question, scores in zip(asked, vectors @ rows.T, strict=True):
        order = np.argsort(-scores)[: TOP_K + 1]
        if (np.diff(scores[order]) < -APART).all():
            answers[question] = [ids[row] for row in order[:TOP_K]]
    return answers


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(expected(Path(sys.argv[1]))))
