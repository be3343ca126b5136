"""What the faults are done to: one pool, its clients, perhaps workers of another supervisor. Started, counted and ended here.

Every process of it carries a mark in its environment, so that none can be left behind unseen.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from pools import BIN, START_S, Pool, alive, children_of, free_port, wait_until
from ragpool.client import Client, RagpoolError

from .callers import MARK, SUPPORT, Callers
from .proxy import Proxy
from .watch import Seen, Watch

QUEUE_MAX = 256
DISK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Clocks:
    """The settings of the pool that say how soon things happen, and what follows from them."""

    name: str
    settings: dict[str, str]
    stuck_s: float
    backoff_max_s: float
    probe_s: float
    starts_crashed: int


SHORT = Clocks(
    "short clocks",
    {
        "SUPERVISOR__BACKOFF_MIN_S": "0.2",
        "SUPERVISOR__BACKOFF_MAX_S": "3",
        "SUPERVISOR__QUARANTINE_PROBE_S": "20",
        "SUPERVISOR__STUCK_MIN_S": "5",
    },
    stuck_s=5.0,
    backoff_max_s=3.0 * 1.2,
    probe_s=20.0,
    starts_crashed=10,
)
DEFAULTS = Clocks("the defaults", {}, stuck_s=30.0, backoff_max_s=30.0 * 1.2, probe_s=300.0, starts_crashed=4)


@dataclass
class World:
    """`local` and `remote`: workers of the pool's own parent, and of a supervisor that joined over TCP."""

    folder: Path
    index: Path
    expected: Path
    clocks: Clocks
    local: int
    remote: int
    rate: float
    rng: Random
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    idle_load_s: float = 0.0
    left: int = 0
    pauses: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"parent": [], "broker": []})

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.faults, self.remote_faults = self.folder / "faults", self.folder / "faults-remote"
        self.faults.mkdir()
        self.remote_faults.mkdir()
        self._port, self._backend_port = free_port(), free_port()
        self.front_proxy = Proxy(self._port)
        self.back_proxy = Proxy(self._backend_port)
        self.remote_parent: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.own_disk = self._mount_disk()
        self.start_pool()
        self.client = Client(self.url, timeout=120.0, connect_timeout=120.0)
        self._onlooker = Client(self.url, timeout=120.0, connect_timeout=120.0)  # never behind questions of its own
        self.callers = Callers(self.folder, self.expected, self.mark, self.url, self.proxied_url, self.rate, self.rng)

    # ---- the pool ------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._port}"

    @property
    def proxied_url(self) -> str:
        return f"tcp://127.0.0.1:{self.front_proxy.port}"

    @property
    def environment(self) -> dict[str, str]:
        settings = {f"RAGPOOL_{key}": value for key, value in self.clocks.settings.items()}
        return {
            MARK: self.mark,
            "PYTHONPATH": str(SUPPORT / "faults"),
            "RAGPOOL_FAULTS": str(self.faults),
            "RAGPOOL_BROKER__QUEUE_MAX": str(QUEUE_MAX),
            **settings,
        }

    def _mount_disk(self) -> bool:
        """A small disk of its own for the run directory, that can be filled; False where we may not mount one."""
        run_dir = self.folder / "run"
        run_dir.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(run_dir)]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False

    def start_pool(self) -> None:
        """The pool, and a fresh watch of what its parent writes."""
        flags = ["--index", str(self.index), "--workers", str(self.local), "--device", "cpu"]
        if self.remote:
            flags += ["--backend", f"tcp://127.0.0.1:{self._backend_port}"]
        self.starts += 1
        self.pool = Pool(self.folder, *flags, url=self.url, env=self.environment)
        Pool.loose.discard(self.pool)
        self.watch = Watch(self.pool.run_dir / "state.json")
        self.watch.start()

    def wait_ready(self) -> None:
        self.pool.wait_ready()
        if not self.wait(lambda seen: self._all_run(seen), START_S):
            raise AssertionError("not all workers came up")

    def _all_run(self, seen: Seen) -> bool:
        return all(seen.slot(number).get("state") == "running" for number in range(self.local))

    def restart_pool(self) -> None:
        """Another pool at the same place, after the end of this one."""
        self.watch.stop()
        self.start_pool()
        self.wait_ready()

    def start_remote(self) -> None:
        """A supervisor of its own, whose workers join through the proxy."""
        command = [BIN / "rag-worker", "--device", "cpu", "--workers", self.remote, "--index", self.index]
        command += ["--backend", f"tcp://127.0.0.1:{self.back_proxy.port}"]
        with (self.folder / "remote.log").open("w") as log:
            self.remote_parent = subprocess.Popen(
                [str(word) for word in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", **self.environment, "RAGPOOL_FAULTS": str(self.remote_faults)},
            )
        wait_until(lambda: len(self.remote_workers()) == self.remote, START_S, "remote workers")

    def measure_load(self) -> None:
        """How long a worker takes to load while nothing else is done here."""
        slot = self.slot(0)
        os.kill(slot["pid"], signal.SIGKILL)
        self.wait(lambda seen: seen.slot(0)["pid"] not in (None, slot["pid"]) and seen.slot(0)["state"] == "running", START_S)
        self.idle_load_s = self.watch.last_load_s(0)

    # ---- what can be seen ----------------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[Seen], Any], timeout_s: float) -> Any:
        return self.watch.wait(condition, timeout_s)

    def slot(self, number: int) -> dict[str, Any]:
        return self.watch.now.slot(number)

    def broker_pid(self) -> int | None:
        broker = self.watch.now.document["broker"]
        return broker["pid"] if broker else None

    def status(self, timeout_s: float = 5.0) -> dict[str, Any] | None:
        """What the broker says; None when it says nothing."""
        try:
            return self._onlooker.status(timeout=timeout_s)
        except RagpoolError:
            return None

    def workers(self) -> list[dict[str, Any]]:
        """Those that the broker does not take for dead."""
        status = self.status() or {"workers": []}
        return [worker for worker in status["workers"] if worker["state"] != "dead"]

    def remote_workers(self) -> list[dict[str, Any]]:
        """Those that are ready and children of the other supervisor."""
        family = children_of(self.remote_parent.pid) if self.remote_parent else []
        return [worker for worker in self.workers() if worker["pid"] in family and worker["state"] == "ready"]

    def faults_told(self, folder: Path | None = None) -> list[list[str]]:
        """[time, pid, slot, what] of each fault that a worker committed."""
        try:
            return [line.split(maxsplit=3) for line in ((folder or self.faults) / "log").read_text().splitlines()]
        except OSError:
            return []

    def was_watched(self, who: str, since: float, until: float) -> bool:
        """Whether `who` ("parent", "broker") ran all that time: only then do times count."""
        return not any(began < until and ended > since for began, ended in self.pauses[who])

    def missing(self) -> list[str]:
        """What is not as at the start, after the last fault: every worker serves, and the broker knows each."""
        wanted, give_up = self.local + self.remote, time.monotonic() + START_S
        while len(ready := [worker for worker in self.workers() if worker["state"] == "ready"]) != wanted:
            if time.monotonic() > give_up:
                return [f"{len(ready)} workers are ready in the end, not {wanted}"]
            time.sleep(0.1)
        return []

    # ---- the end -------------------------------------------------------------------------------------------------------

    def marked(self) -> list[int]:
        """All living processes of this world but ourselves."""
        return find_marked(self.mark)

    def pool_pids(self) -> list[int]:
        """The living processes of the pool itself: no clients, no remote workers."""
        others = {load.pid for load in self.callers.loads}
        if self.remote_parent is not None:
            others |= {self.remote_parent.pid, *children_of(self.remote_parent.pid)}
        return [pid for pid in self.marked() if pid not in others and not _is_client(pid)]

    def count_left(self, within_s: float, others: Callable[[], list[int]] | None = None) -> int:
        """Processes that are still there after that time; they are killed, so that the next row starts clean."""
        find = others or self.marked
        give_up = time.monotonic() + within_s
        while (left := find()) and time.monotonic() < give_up:
            time.sleep(0.05)
        for pid in left:
            print(f"left behind: {pid} {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}", flush=True)
            os.kill(pid, signal.SIGKILL)
        self.left += len(left)
        return len(left)

    def close(self) -> None:
        """End everything in order, and count what is left."""
        self.client.close()
        self._onlooker.close()
        for process in (self.remote_parent, self.pool.process):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    print(f"{process.args!r} does not end", flush=True)
        self.watch.stop()
        self.front_proxy.close()
        self.back_proxy.close()
        self.count_left(3.0)
        shutil.copytree(self.pool.run_dir / "logs", self.folder / "logs")
        if self.own_disk:
            subprocess.run(["umount", str(self.pool.run_dir)], check=False)


def find_marked(mark: str) -> list[int]:
    """All living processes that were started with that mark in their environment."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if needle in environ.read_bytes().split(b"\0") and alive(int(environ.parent.name)):
                found.append(int(environ.parent.name))
        except OSError:
            continue
    return found


def _is_client(pid: int) -> bool:
    try:
        return b"chaos.load" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
