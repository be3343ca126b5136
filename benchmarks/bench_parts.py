"""What the benchmarks share: a real broker process, its null workers, the forwarder, a pipelined client, and what /proc says.

Everything stays on loopback and ipc in a temporary folder; every process is ended by its own pid. Nothing here is measured code.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import zmq
from baselines.processes import cpu_s, free_port
from baselines.stats import percentile
from ragpool.broker import admin
from ragpool.conf.paths import RunPaths
from ragpool.wire import bodies, codec, messages
from ragpool.wire.messages import TO_CLIENT

HERE = Path(__file__).resolve().parent
START_S = 20.0
"""How long a process may take to come up."""

STALLED_S = 10.0
"""A client that hears nothing for so long gives up: the run is void."""

_HERTZ = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


# ---- processes -----------------------------------------------------------------------------------------------------


def free_address() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


def start(*command: str, stderr: Any = None) -> subprocess.Popen[bytes]:
    """`python <command>` as a child of ours."""
    return subprocess.Popen([sys.executable, *command], stderr=stderr)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not listen."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Service:
    """Something that takes requests at `frontend` and hands them to workers at `backend`."""

    process: subprocess.Popen[bytes]
    frontend: str
    backend: str
    paths: RunPaths
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    hello: bool = True
    """Whether it wants a session opened."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def status(self) -> dict[str, Any]:
        """The broker's own account of itself."""
        found = admin.ask(self.paths.admin, "status", timeout_s=10.0)
        if found is None:
            raise RuntimeError("the broker gives no status")
        return found

    def until_ready(self, workers: int) -> None:
        give_up = time.monotonic() + START_S
        while sum(worker["state"] == "ready" for worker in self.status()["workers"]) < workers:
            if time.monotonic() > give_up:
                raise RuntimeError(f"{workers} workers did not come up within {START_S:g} s")
            time.sleep(0.05)


@contextlib.contextmanager
def broker(workers: int, *worker_options: str, settings: dict[str, Any] | None = None, stderr: Any = None) -> Iterator[Service]:
    """A broker process with `workers` null workers, each ready. `settings`: sections that differ from the defaults."""
    with tempfile.TemporaryDirectory(prefix="ragpool-bench-") as folder:
        paths, frontend = RunPaths(Path(folder)), free_address()
        given = {**(settings or {})}
        given["broker"] = {**given.get("broker", {}), "frontend": frontend}
        process = start("-m", "ragpool.broker.main", "--settings", json.dumps(given), "--run-dir", folder, stderr=stderr)
        service = Service(process, frontend, paths.backend, paths)
        with _workers_of(service, workers, worker_options):
            service.until_ready(workers)
            yield service


@contextlib.contextmanager
def forwarder(workers: int, *worker_options: str) -> Iterator[Service]:
    """The bare ROUTER-ROUTER process, with the same workers."""
    with tempfile.TemporaryDirectory(prefix="ragpool-bench-") as folder:
        paths, frontend = RunPaths(Path(folder)), free_address()
        service = Service(start(str(HERE / "forwarder.py"), frontend, paths.backend), frontend, paths.backend, paths, hello=False)
        with _workers_of(service, workers, worker_options):
            time.sleep(1.0 + 0.2 * workers)  # it answers no questions: the first run warms up whatever this did not
            yield service


@contextlib.contextmanager
def _workers_of(service: Service, workers: int, options: Sequence[str]) -> Iterator[None]:
    try:
        for number in range(workers):
            service.workers.append(start(str(HERE / "null_worker.py"), service.backend, f"null-{number}", *options))
        yield
    finally:
        for process in (*service.workers, service.process):
            end(process)


# ---- what /proc says -----------------------------------------------------------------------------------------------


def threads_cpu_s(pid: int) -> dict[int, float]:
    """`cpu_s` of each thread of `pid`, by its id; that of the first thread is the id of the process."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        found[int(task.name)] = (int(fields[11]) + int(fields[12])) / _HERTZ
    return found


def mappings_kib(pid: int, folder: Path) -> dict[str, int]:
    """KiB by their name in smaps (Rss, Pss, Private_Dirty...) of all that `pid` has mapped of the files in `folder`."""
    sums: dict[str, int] = {}
    ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            ours = len(words) > 5 and Path(words[5]).parent == folder
        elif ours and words[-1] == "kB":
            sums[words[0][:-1]] = sums.get(words[0][:-1], 0) + int(words[1])
    return sums


def rss_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE // 1024


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# ---- clients -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What one client saw. `cpu_us`: the service's own processor time for each request."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


class Pipeline:
    """A raw DEALER that keeps `window` requests unanswered, up to `batch` of them in one message."""

    def __init__(self, service: Service, batch: int = 1, remaining_ms: int = 60_000) -> None:
        self._pid = service.pid
        self._batch = batch
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.set_hwm(0)
        self._socket.linger = 0
        self._socket.connect(service.frontend)
        self._prefix = os.urandom(8)
        self._numbers = count()
        request = messages.Request(bytes(16), messages.SEARCH, 1, 5, remaining_ms, body=bodies.search_body(["who was she?"]))
        _, self._header, self._body = codec.encode_item(request)
        self._sent: dict[bytes, float] = {}
        self._latencies: list[float] = []
        if service.hello:
            self._open()

    def _open(self) -> None:
        self._socket.send_multipart(codec.encode(messages.Hello("bench", items_max=max(1, self._batch))))
        if not self._socket.poll(int(START_S * 1e3)):
            raise RuntimeError("no WELCOME came")
        codec.decode(self._socket.recv_multipart(), TO_CLIENT)

    def close(self) -> None:
        self._socket.close()

    def run(self, window: int, seconds: float, warmup_s: float = 0.2) -> Figures:
        """Saturate for `seconds`; what is answered while it warms up is not counted. Nothing is left unanswered behind it."""
        self._pump(window, time.monotonic() + warmup_s)
        self._latencies = []
        cpu, began = cpu_s(self._pid), time.monotonic()
        self._pump(window, began + seconds)
        took, used, seen = time.monotonic() - began, cpu_s(self._pid) - cpu, self._latencies
        while self._sent:
            self._take()
        return Figures(
            len(seen) / took, percentile(seen, 0.5) * 1e3, percentile(seen, 0.99) * 1e3, used / max(1, len(seen)) * 1e6
        )

    def _pump(self, window: int, until: float) -> None:
        batch = min(self._batch, window)
        while True:
            while len(self._sent) + batch <= window:
                self._send(batch)
            if self._take() > until:
                return

    def _send(self, batch: int) -> None:
        now = time.monotonic()
        frames = [codec.VERSION_FRAME, b"REQUEST"]
        for _ in range(batch):
            identity = self._prefix + next(self._numbers).to_bytes(8, "big")
            self._sent[identity] = now
            frames += (identity, self._header, self._body)
        self._socket.send_multipart(frames)

    def _take(self) -> float:
        """Wait for an answer, then take all that came; the time of the last. Raises `RuntimeError` where an answer is none."""
        socket, sent, seen = self._socket, self._sent, self._latencies
        if not socket.poll(int(STALLED_S * 1e3)):
            raise RuntimeError(f"{len(sent)} requests were not answered within {STALLED_S:g} s")
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return time.monotonic()
            if frames[1] == b"REPLY":
                now = time.monotonic()
                for identity in frames[2::3]:
                    seen.append(now - sent.pop(identity))
            elif frames[1] == b"ERROR":
                raise RuntimeError(f"an error came: {codec.decode(frames, TO_CLIENT)[0]}")


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns, the first to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
