"""Workers of a supervisor of their own, as on another host: no channel, and yet their deaths are seen, told and healed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pools import BIN, children_of, free_port, running_pool, wait_until
from ragpool.client import Client, PoisonRequest

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

FAULTS = Path(__file__).resolve().parents[1] / "support" / "faults"
SHORT = {"PYTHONPATH": str(FAULTS), "RAGPOOL_SUPERVISOR__BACKOFF_MIN_S": "0.1"}


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
            assert time.monotonic() - killed_at < 3.0, "by the broker's own pings: silence is no death before 10 s"
            pool.wait_workers(3)
            workers = client.status()["workers"]
            assert "killed by SIGKILL" in [worker["last_end"] for worker in workers]
            assert remote[0] not in [worker["pid"] for worker in workers], "the dead one is replaced"
            before = {worker["pid"] for worker in workers}
            with pytest.raises(PoisonRequest):
                client.search("fault:crash on any host", timeout=120)
            pool.wait_workers(3)
            assert len(before - {worker["pid"] for worker in client.status()["workers"]}) <= 4
