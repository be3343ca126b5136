"""Real workers that live and get nowhere, and workers of a supervisor of their own: seen, ended, told, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pools import BIN, Pool, alive, children_of, free_port, running_pool, wait_until
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
    """Four threads that ask all the while; whatever fails fails the test."""
    errors: list[Exception] = []
    stop = threading.Event()

    def ask(client: Client, number: int) -> None:
        while not stop.is_set():
            try:
                assert len(client.search(f"question {number}", timeout=60)) == 5
            except Exception as error:  # whatever it is, it is the finding
                errors.append(error)
                return

    pool.wait_workers(2)
    with Client(pool.url) as client:
        threads = [threading.Thread(target=ask, args=(client, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        yield
        stop.set()
        for thread in threads:
            thread.join(90)
    assert errors == []


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


@contextmanager
def remote_workers(index: Path, backend: str, folder: Path) -> Iterator[int]:
    """`rag-worker` with two workers of its own; its pid."""
    with (folder / "remote").open("w") as output:
        process = subprocess.Popen(
            [str(BIN / "rag-worker"), "--device", "cpu,cpu", "--backend", backend, "--index", str(index)],
            stdout=output,
            stderr=output,
            env={**os.environ, **SHORT, "HF_HUB_OFFLINE": "1"},
        )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()


def test_a_remote_supervisor_heals_and_tells(index: Path, tmp_path: Path) -> None:
    """No channel: the broker finds out by itself, and the successor tells how it ended."""
    backend = f"tcp://127.0.0.1:{free_port()}"
    flags = ("--index", str(index), "--workers", "1", "--device", "cpu", "--backend", backend)
    with running_pool(tmp_path, *flags, env=SHORT) as pool, remote_workers(index, backend, tmp_path) as supervisor:
        pool.wait_workers(3)
        ours = set(pool.worker_pids())
        remote = [worker["pid"] for worker in pool.status()["workers"] if worker["pid"] not in ours]
        assert sorted(remote) == sorted(children_of(supervisor))
        with Client(pool.url) as client:
            client.status()
            killed_at = time.monotonic()
            os.kill(remote[0], signal.SIGKILL)

            def seen() -> bool:
                return any(w["pid"] == remote[0] and w["state"] == "dead" for w in client.status()["workers"])

            wait_until(seen, 5, "its death to be seen")
            assert time.monotonic() - killed_at < 3.0, "by the broker's own pings: silence is no death before 4 s"
            pool.wait_workers(3)
            workers = client.status()["workers"]
            assert "killed by SIGKILL" in [worker["last_end"] for worker in workers]
            assert remote[0] not in [worker["pid"] for worker in workers], "the dead one is replaced"
            before = {worker["pid"] for worker in workers}
            with pytest.raises(PoisonRequest):
                client.search("fault:crash on any host", timeout=120)
            pool.wait_workers(3)
            assert len(before - {worker["pid"] for worker in client.status()["workers"]}) <= 4
