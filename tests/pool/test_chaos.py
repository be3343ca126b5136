"""The quick run of `make chaos`, with its own seed: a minute of faults under load. The long ones: docs/chaos.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.deeds import Fault, Times
from chaos.runner import Done
from chaos.table import QUIET, merged, rows_of, text, total

SUPPORT = Path(__file__).resolve().parents[1] / "support"
LONG = os.environ.get("RAGPOOL_TEST_LONG") == "1"


def run_chaos(*args: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SUPPORT)}
    command = [sys.executable, "-m", "chaos", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)


@pytest.mark.process
@pytest.mark.timeout(900)
def test_a_minute_of_faults_loses_nothing() -> None:
    run = run_chaos("--quick", timeout_s=840)
    assert run.stdout.splitlines()[-1:] == ["lost 0, wrong 0, twice 0, left 0"], run.stdout + run.stderr
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.process
@pytest.mark.timeout(900)
@pytest.mark.skipif(not LONG, reason="long: RAGPOOL_TEST_LONG=1")
def test_the_parents_end_takes_everything_along_at_any_moment() -> None:
    run = run_chaos("--parents", "20", "--seed", "20", timeout_s=840)
    assert run.stdout.splitlines()[-1] == "parents killed 20, left 0", run.stdout + run.stderr


# ---- the table counts what it should -----------------------------------------------------------------------------------


def done(name: str, began: float, ended: float, **fields: object) -> Done:
    fault = Fault(name, lambda world, rng, slot: Times(), (), **fields)  # type: ignore[arg-type]
    return Done(fault, began, ended, Times(0.1, 2.0))


def test_what_is_lost_wrong_or_twice_stands_in_the_row_of_its_fault() -> None:
    faults = [done("kill", 10.0, 20.0), done("stop", 15.0, 30.0), done("poison", 40.0, 50.0, due="poison_request")]
    answers = [
        {"at": 1.0, "took": 0.5, "end": "right"},
        {"at": 9.0, "took": 2.0, "end": "no_workers"},
        {"at": 9.0, "took": 10.0, "end": "wrong"},
        {"at": 45.0, "end": "twice"},
        {"at": 29.0, "took": 0.1, "end": "right"},
    ]
    rows = {row.name: row for row in rows_of(faults, answers)}
    assert {name: (row.requests, row.lost, row.ends["wrong"], row.ends["twice"]) for name, row in rows.items()} == {
        "kill": (1, 1, 0, 0),
        "stop": (2, 0, 1, 0),
        "poison": (0, 0, 0, 1),
        QUIET: (1, 0, 0, 0),
    }
    everything = total(rows.values())
    assert (everything.times, everything.lost, everything.due["poison_request"]) == (3, 1, 2)
    both = merged([*rows.values(), *rows_of(faults, answers)])
    assert [row.times for row in both] == [2, 2, 2, 0]
    assert "no_workers 2" in text(both)
