"""Real pools of real processes, started as a user starts them, ended by pid."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from ragpool.client import Client

BIN = Path(sys.executable).parent
START_S = 90.0

UNCALIBRATED = {"RAGPOOL_WORKER__BACKEND": "torch", "RAGPOOL_WORKER__MAX_BATCH": "16"}
"""Tests of pools measure no speed: with both given there is nothing to calibrate before the start."""


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first true value of `condition`; fails after `timeout_s`."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


@contextmanager
def asked_meanwhile(url: str, callers: int) -> Iterator[None]:
    """So many threads ask the pool at `url` all the while; whatever fails them fails the test."""
    errors: list[Exception] = []
    stop = threading.Event()

    def ask(client: Client, number: int) -> None:
        while not stop.is_set():
            try:
                assert len(client.search(f"question {number}", timeout=60)) == 5
            except Exception as error:  # whatever it is, it is the finding
                errors.append(error)
                return

    with Client(url) as client:
        threads = [threading.Thread(target=ask, args=(client, number)) for number in range(callers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(90)
    assert errors == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run_cli(*args: str, timeout_s: float = 120.0, stdin: str | None = None, env: dict[str, str] | None = None) -> Any:
    """One of our commands, to its end."""
    return subprocess.run(
        [str(BIN / args[0]), *args[1:]],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
    )


class Pool:
    """`rag-broker start` with its flags; `output` is what it printed so far. One that nobody stops ends with its test."""

    loose: ClassVar[set[Pool]] = set()

    def __init__(self, folder: Path, *flags: str, url: str = "", env: dict[str, str] | None = None) -> None:
        self.url = url or f"tcp://127.0.0.1:{free_port()}"
        self.run_dir = folder / "run"
        self._output = folder / "output"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [str(BIN / "rag-broker"), "start", "--frontend", self.url, "--run-dir", str(self.run_dir), *flags],
                stdin=subprocess.DEVNULL,  # no terminal: SIGHUP is a reload
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", **UNCALIBRATED, **(env or {})},
            )
        self.loose.add(self)

    @classmethod
    def end_loose(cls) -> None:
        """What a test that failed left running: the parent's end takes its children along."""
        for pool in cls.loose:
            if pool.process.poll() is None:
                pool.process.kill()
                pool.process.wait(10)
        cls.loose.clear()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"the pool ended: {self.output}"
            return any(line.startswith("ready") for line in self.output.splitlines())

        wait_until(ready, START_S, f"ready in {self.output!r}")

    def run_status(self) -> Any:
        return run_cli("rag-broker", "status", "--json", "--run-dir", str(self.run_dir))

    def status(self) -> dict[str, Any]:
        shown = self.run_status()
        assert shown.returncode == 0, shown.stderr
        status: dict[str, Any] = json.loads(shown.stdout)
        return status

    def worker_pids(self) -> list[int]:
        return [slot["pid"] for slot in self.status()["slots"] if slot["pid"]]

    def broker_pid(self) -> int | None:
        pid: int | None = self.status()["broker"]["pid"]
        return pid

    def pids(self) -> list[int]:
        """All processes of the pool but its parent, by their parent in /proc."""
        return children_of(self.process.pid)

    def wait_workers(self, count: int, timeout_s: float = START_S) -> None:
        def enough() -> bool:
            return sum(worker["state"] == "ready" for worker in self.status()["workers"]) == count

        wait_until(enough, timeout_s, f"{count} ready workers")

    def stop(self) -> int:
        """SIGTERM, and its exit code; whatever is left after a while is killed and is a failure."""
        mine = [self.process.pid, *self.pids()]
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(45)
        finally:
            left = [pid for pid in mine if alive(pid)]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            assert not left, f"processes {left} outlived their pool"


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@contextmanager
def running_pool(folder: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Pool]:
    pool = Pool(folder, *flags, env=env)
    Pool.loose.discard(pool)
    try:
        pool.wait_ready()
        yield pool
    finally:
        if pool.process.poll() is None:
            pool.stop()
