"""A run directory without room, on a file system of its own: the pool serves on, says so once, and heals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import BIN, START_S, free_port, wait_until
from ragpool.client import Client

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

SIZE_KIB = 512


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


class SmallDisk:
    """`rag-broker start` whose run directory is a tmpfs of half a MiB, in a mount namespace of its own."""

    def __init__(self, folder: Path, index: Path) -> None:
        self.url = f"tcp://127.0.0.1:{free_port()}"
        self._output = folder / "output"
        flags = f"--index {index} --workers 2 --device cpu --frontend {self.url} --run-dir {folder}/run"
        start = f"exec {BIN / 'rag-broker'} start {flags}"
        mounted = f"mkdir {folder}/run && mount -t tmpfs -o size={SIZE_KIB}k,mode=0700 tmpfs {folder}/run && {start}"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                ["unshare", "-rm", "sh", "-c", mounted],
                stdout=output,
                stderr=output,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "RAGPOOL_SUPERVISOR__BACKOFF_MIN_S": "0.1"},
            )
        self.run = Path(f"/proc/{self.process.pid}/root{folder}/run")

    @property
    def output(self) -> str:
        return self._output.read_text()


def fill(path: Path) -> None:
    """To the last block."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


@pytest.fixture
def pool(index: Path, tmp_path: Path) -> Iterator[SmallDisk]:
    if not may_mount():
        pytest.skip("this user may not mount a file system")
    pool = SmallDisk(tmp_path, index)
    try:
        wait_until(lambda: pool.process.poll() is not None or "\nready" in "\n" + pool.output, START_S, "ready")
        assert pool.process.poll() is None, pool.output
        yield pool
    finally:
        pool.process.send_signal(signal.SIGTERM)
        try:
            assert pool.process.wait(45) == 0
        finally:
            pool.process.kill()


def test_it_serves_on_and_heals(pool: SmallDisk) -> None:
    with Client(pool.url, timeout=60) as client:
        wait_until(lambda: all(w["state"] == "ready" for w in client.status()["workers"]), 60, "both")
        filler = pool.run / "filler"
        fill(filler)
        for number in range(2):
            victim = client.status()["workers"][0]["pid"]
            os.kill(victim, signal.SIGKILL)
            assert len(client.search(f"question {number}")) == 5

            def replaced(victim: int = victim) -> bool:
                ready = [worker["pid"] for worker in client.status()["workers"] if worker["state"] == "ready"]
                return len(ready) == 2 and victim not in ready

            wait_until(replaced, 90, "its successor")
        status = client.status()
        assert "cannot be written" in status["broker"]["trouble"]
        assert [slot["state"] for slot in status["slots"]] == ["running", "running"]
        assert pool.output.count("the state file cannot be written") == 1
        filler.unlink()
        wait_until(lambda: client.status()["broker"]["trouble"] == "", 10, "it to heal")
        ends = [end["reason"] for slot in client.status()["slots"] for end in slot["exits"]]
        assert ends == ["killed by SIGKILL"] * 2, "nothing that happened meanwhile is forgotten"
        assert pool.output.count("the state file can be written again") == 1
