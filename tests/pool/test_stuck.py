"""Real workers that live and get nowhere: seen, ended, told, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import Pool, alive, asked_meanwhile, running_pool, wait_until
from ragpool.client import Client, PoisonRequest

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

FAULTS = Path(__file__).resolve().parents[1] / "support" / "faults"
SHORT = {
    "PYTHONPATH": str(FAULTS),
    "RAGPOOL_SUPERVISOR__BACKOFF_MIN_S": "0.1",
    "RAGPOOL_SUPERVISOR__STUCK_MIN_S": "3",
    "RAGPOOL_BROKER__HEARTBEAT_INTERVAL_S": "0.2",
    "RAGPOOL_BROKER__SUSPECT_AFTER_S": "1",
    "RAGPOOL_BROKER__DEAD_AFTER_S": "4",
}


@pytest.fixture(scope="module")
def pool(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    flags = ("--index", str(index), "--workers", "2", "--device", "cpu")
    with running_pool(tmp_path_factory.mktemp("stuck"), *flags, env=SHORT) as pool:
        yield pool


@pytest.fixture(autouse=True)
def load(pool: Pool) -> Iterator[None]:
    pool.wait_workers(2)
    with asked_meanwhile(pool.url, callers=4):
        yield


def ends(pool: Pool) -> list[dict[str, Any]]:
    return [end for slot in pool.status()["slots"] for end in slot["exits"]]


def test_a_query_that_hangs_ends_few_workers_and_is_refused(pool: Pool) -> None:
    before = len(ends(pool))
    with Client(pool.url, timeout=120) as client:
        with pytest.raises(PoisonRequest):
            client.search("fault:hang for ever")
        with pytest.raises(PoisonRequest):
            client.search("fault:hang for ever", timeout=5)
    found = ends(pool)[: len(ends(pool)) - before]
    assert 1 <= len(found) <= 4
    for end in found:
        assert end["reason"].startswith("hung in a batch for ")
        assert end["signal"] == "SIGABRT"
        assert "in commit" in end["stack"], "the stack says where"
        assert end["running"]


def test_a_stopped_worker_is_suspect_then_killed_and_replaced(pool: Pool) -> None:
    victim = pool.status()["workers"][0]["pid"]
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: "suspect" in [worker["state"] for worker in pool.status()["workers"]], 10, "a suspect")
    wait_until(lambda: not alive(victim), 12, "its end")
    pool.wait_workers(2)
    last = next(end for end in ends(pool) if end["pid"] == victim)
    assert last["reason"].startswith("stopped for ")
    assert last["signal"] == "SIGKILL"


def test_a_stopped_broker_is_left_alone_and_takes_nobody_for_dead(pool: Pool) -> None:
    before = pool.status()
    os.kill(before["broker"]["pid"], signal.SIGSTOP)
    down = wait_until(lambda: (found := pool.status())["broker"].get("detail") and found, 10, "word of it")
    assert down["broker"]["state"] == "down"
    assert down["broker"]["detail"] == "stopped by a signal"
    time.sleep(8)  # twice what would make a silent worker dead
    os.kill(before["broker"]["pid"], signal.SIGCONT)
    pool.wait_workers(2)
    after = pool.status()
    assert after["broker"]["pid"] == before["broker"]["pid"]
    assert [slot["pid"] for slot in after["slots"]] == [slot["pid"] for slot in before["slots"]]
