"""`rag-bench` against a real pool: what it reports is what the pool did."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pools import Pool

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


def bench(pool: Pool, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "ragpool.client.bench", "--broker", pool.url, "--json", "--duration", "2", "--warmup", "0.5"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def replies(pool: Pool) -> int:
    count: int = pool.status()["totals"]["replies"]
    return count


def test_a_closed_loop_tells_where_the_time_goes(pool: Pool) -> None:
    before = replies(pool)
    (row,) = bench(pool, "--concurrency", "8")["rows"]
    assert 0 < row["ok"] <= replies(pool) - before
    assert row["errors"] == {}
    assert row["unanswered"] == 0
    stages = {name: stage["mean"] for name, stage in row["stages_ms"].items()}
    assert all(stages[name] > 0 for name in ("queue", "tokenize", "encode", "search", "fetch"))
    assert sum(stages.values()) == pytest.approx(row["latency_ms"]["mean"], rel=1e-3)


def test_an_open_loop_of_two_processes_offers_its_rate(pool: Pool) -> None:
    (row,) = bench(pool, "--rate", "20", "--arrivals", "constant", "--processes", "2", "--grace", "30")["rows"]
    assert row["requests"] == row["ok"] + row["missed"] == 40
    assert row["ok"] > 20
