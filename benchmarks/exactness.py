"""Are the answers of a running pool those of exact search? Compared with a float64 product over the index's stored rows.

The query vectors are those of `client.embed`. Ids may differ only where float64 scores differ by less than 1e-6 times the norms
of the query and of the longest row. Exit code 0: all answers are; 1: some are not.
"""

from __future__ import annotations

import argparse
import json
import sys

from oracle import Oracle
from ragpool.client import Client
from ragpool.index.store import open_index


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", help="the index directory that the pool serves")
    parser.add_argument("queries", help="JSONL with the field text")
    parser.add_argument("--broker", default="tcp://127.0.0.1:5555")
    options = parser.parse_args()
    with open(options.queries) as lines:
        queries = [json.loads(line)["text"] for line in lines]
    with open_index(options.index) as index:
        oracle = Oracle(index.vectors.full)
        row_of = {index.passages.get(row)["id"]: row for row in range(index.count)}
    wrong = 0
    with Client(options.broker) as client:
        vectors = client.embed(queries)
        for top_k in (10, 100):
            found = [[row_of[hit.id] for hit in hits] for hits in client.search_many(queries, top_k=top_k)]
            right = sum(oracle.right(vectors, found, top_k))
            print(f"k = {top_k}: {right} of {len(queries)} as exact search")
            wrong += len(queries) - right
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
