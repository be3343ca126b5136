"""drain, restart and scale, under load and with no failed request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import Pool, asked_meanwhile, run_cli, running_pool, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def pool(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    flags = ("--index", str(index), "--workers", "2", "--device", "cpu")
    with running_pool(tmp_path_factory.mktemp("operated"), *flags) as pool:
        yield pool


@pytest.fixture(autouse=True)
def load(pool: Pool) -> Iterator[None]:
    with asked_meanwhile(pool.url, callers=8):
        yield


def command(pool: Pool, *args: str) -> None:
    shown = run_cli("rag-broker", *args, "--run-dir", str(pool.run_dir))
    assert shown.returncode == 0, shown.stderr


def test_restart_replaces_one_worker(pool: Pool) -> None:
    pool.wait_workers(2)
    before = {worker["slot"]: worker["pid"] for worker in pool.status()["workers"]}
    command(pool, "restart", "0")

    def replaced() -> bool:
        now = {worker["slot"]: worker["pid"] for worker in pool.status()["workers"] if worker["state"] == "ready"}
        return len(now) == 2 and now[0] != before[0] and now[1] == before[1]

    wait_until(replaced, 60, "another process in slot 0")


def test_restart_of_all_replaces_them_one_at_a_time_beside_each_other(pool: Pool) -> None:
    pool.wait_workers(2)
    before = {worker["slot"]: worker["pid"] for worker in pool.status()["workers"] if worker["state"] == "ready"}
    command(pool, "restart", "--all")
    fewest = 2

    def done() -> bool:
        nonlocal fewest
        status = pool.status()
        fewest = min(fewest, sum(slot["state"] == "running" for slot in status["slots"]))
        return bool((status["rollout"] or {}).get("state") == "done")

    wait_until(done, 90, "all to be replaced")
    assert fewest == 2, "there is room for a second process, so that all serve all the while"
    now = {worker["slot"]: worker["pid"] for worker in pool.status()["workers"] if worker["state"] == "ready"}
    assert len(now) == 2
    assert all(now[slot] != before[slot] for slot in before)
    assert "restart of all workers: done" in run_cli("rag-broker", "status", "--run-dir", str(pool.run_dir)).stdout


def test_a_drained_worker_stays_away_until_it_is_restarted(pool: Pool) -> None:
    pool.wait_workers(2)
    victim = pool.status()["workers"][0]
    command(pool, "drain", victim["id"][:8])
    pool.wait_workers(1, 30)
    wait_until(lambda: "stopped" in [slot["state"] for slot in pool.status()["slots"]], 10, "a stopped slot")
    command(pool, "restart", str(victim["slot"]))
    pool.wait_workers(2)


def test_scale_up_and_down(pool: Pool) -> None:
    command(pool, "scale", "3")
    pool.wait_workers(3)
    command(pool, "scale", "1")
    pool.wait_workers(1, 30)
    command(pool, "scale", "2")
    pool.wait_workers(2)


def test_what_cannot_be_done_is_said(pool: Pool) -> None:
    for args in (("restart", "nobody"), ("restart",), ("restart", "0", "--all"), ("drain", "nobody"), ("scale", "5000")):
        shown = run_cli("rag-broker", *args, "--run-dir", str(pool.run_dir))
        assert shown.returncode in (1, 2)
        assert "Traceback" not in shown.stderr
        assert len(shown.stderr.splitlines()) == 1


def test_names_that_are_not_utf_8_are_refused(pool: Pool) -> None:
    for args in (("reload", "--index", "no\udcffpe"), ("restart", "no\udcffpe"), ("drain", "no\udcffpe")):
        shown = run_cli("rag-broker", *args, "--run-dir", str(pool.run_dir))
        assert shown.returncode == 2
        assert shown.stderr.startswith("rag-broker: '")
        assert shown.stderr.endswith("no\\udcffpe' is not text in UTF-8\n")
