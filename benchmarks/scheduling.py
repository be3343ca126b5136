"""The broker's own core in virtual time, against a central queue, random, round robin and the power of two choices.

No socket and no clock: `ragpool.broker.core.Core` is fed messages with made-up times, and its workers are simulated. Two rows
for each load: unit jobs with a credit of one (`BATCHES_MAX` = 1, and nothing else changed), and batches of a + b x n as deployed.
There the core may park a full batch behind a running one, which hides the way to a worker and back at the price of binding work
before its worker is free; it measures that way, which in this world is nothing, and leaves parking be.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from bench_parts import table
from queueing import BATCHES, POLICIES, SERVICES, SMALL_BATCHES, UNIT, Central, Floats, Shape, Workload, sojourns
from ragpool.broker import lineup
from ragpool.broker.admission import Bounds
from ragpool.broker.commands import CLIENT, WORKER, Command, Dispatch
from ragpool.broker.core import Core
from ragpool.broker.core_settings import CoreSettings
from ragpool.broker.liveness import Patience
from ragpool.wire.messages import Hello, Register, Reply, Request

LOADS = (0.5, 0.8, 0.95)
WARMUP = 0.1
WARMUP_EACH = 10
"""Jobs that are not counted, as a share and for each worker: the fits are being learned, the queue builds up."""

PLOT = Path(__file__).resolve().parent.parent / "docs" / "scheduling.png"
FOREVER = 10**9
WITHIN = 1.05
WITHIN_SERVICE = 0.01
FLAT = 2.0
MANY = 64


@dataclass(frozen=True)
class Mode:
    name: str
    shape: Shape
    credit: int


MODES = (Mode("unit, credit 1", UNIT, 1), Mode("batches", BATCHES, 2))


@dataclass(frozen=True)
class Row:
    """p50 and p99 sojourn in seconds by policy, "broker" among them; `cost_us`: the core's processor time for each request."""

    mode: str
    workload: Workload
    p50: dict[str, float]
    p99: dict[str, float]
    cost_us: float

    @property
    def ratio(self) -> float:
        return self.p99["broker"] / self.p99[Central.name]

    @property
    def verdict(self) -> str:
        """What was wanted, and missed."""
        ours, central = self.p99["broker"], self.p99[Central.name]
        slack = WITHIN_SERVICE * self.workload.service_s
        if ours > max(central * WITHIN, central + slack):
            return "behind central"
        others = [p99 for name, p99 in self.p99.items() if name not in ("broker", Central.name)]
        behind = any(ours > other + slack or (other > central * WITHIN and ours >= other) for other in others)
        return "behind another" if behind else "ok"


class Pool:
    """The core with simulated workers: each runs the batches that it was sent, one after the other."""

    def __init__(self, workload: Workload) -> None:
        bounds = Bounds(queue_max=FOREVER, queue_max_bytes=FOREVER, window=FOREVER)
        self._core = Core(CoreSettings("bench", bounds=bounds, patience=Patience(FOREVER, FOREVER, FOREVER)), 0.0)
        self._works = workload.works().tolist()
        self._arrivals = workload.arrivals().tolist()
        self._duration = workload.duration()
        self._waiting: list[deque[Dispatch]] = [deque() for _ in range(workload.servers)]
        self._ends: list[tuple[float, int]] = []
        self._began = [0.0] * workload.servers
        self._left = np.zeros(workload.jobs)
        self.core_s = 0.0
        for server in range(workload.servers):
            me = Register(str(server), "ready", max_batch=workload.shape.most, items_max=4096)
            self._core.receive(WORKER, _peer(server), me, 0.0)
        self._core.receive(CLIENT, b"client", Hello("bench"), 0.0)
        self._core.handle_timer(0.0)

    def sojourns(self) -> Floats:
        for job, now in enumerate(self._arrivals):
            self._end_until(now)
            request = Request(_identity(job), "search", 1, 5, 24 * 3600 * 1000)
            began = time.thread_time()
            self._core.receive(CLIENT, b"client", request, now)
            commands = self._core.handle_timer(now)
            self.core_s += time.thread_time() - began
            self._obey(commands, now)
        self._end_until(float("inf"))
        return self._left - np.asarray(self._arrivals)

    def _end_until(self, time_s: float) -> None:
        while self._ends and self._ends[0][0] <= time_s:
            now, server = heapq.heappop(self._ends)
            ended = self._waiting[server].popleft()
            self._left[[_job(request) for request in ended.requests]] = now
            timings_ms = {"encode": (now - self._began[server]) * 1e3}
            replies = [Reply(request.id, timings_ms=timings_ms) for request in ended.requests]
            began = time.thread_time()
            for reply in replies:
                self._core.receive(WORKER, ended.peer, reply, now)
            commands = self._core.handle_timer(now)
            self.core_s += time.thread_time() - began
            if self._waiting[server]:
                self._begin(server, now)
            self._obey(commands, now)

    def _obey(self, commands: Sequence[Command], now: float) -> None:
        for command in commands:
            if isinstance(command, Dispatch):
                server = int(command.peer)
                self._waiting[server].append(command)
                if len(self._waiting[server]) == 1:
                    self._begin(server, now)

    def _begin(self, server: int, now: float) -> None:
        self._began[server] = now
        work = sum(self._works[_job(request)] for request in self._waiting[server][0].requests)
        heapq.heappush(self._ends, (now + self._duration(server, work, now), server))


def _peer(server: int) -> bytes:
    return str(server).encode()


def _identity(job: int) -> bytes:
    return job.to_bytes(16, "big")


def _job(request: Request) -> int:
    return int.from_bytes(request.id, "big")


def row(mode: Mode, workload: Workload) -> Row:
    lineup.BATCHES_MAX = mode.credit
    pool = Pool(workload)
    seen = {"broker": pool.sojourns(), **{policy.name: sojourns(policy, workload) for policy in POLICIES}}
    skipped = min(workload.jobs // 2, max(int(WARMUP * workload.jobs), WARMUP_EACH * workload.servers))
    counted = {name: values[skipped:] for name, values in seen.items()}
    return Row(
        mode.name,
        workload,
        {name: float(np.percentile(values, 50)) for name, values in counted.items()},
        {name: float(np.percentile(values, 99)) for name, values in counted.items()},
        pool.core_s / workload.jobs * 1e6,
    )


def cases(servers: int, jobs: int) -> Iterator[tuple[Mode, Workload]]:
    for mode in MODES:
        for service in SERVICES:
            for load in LOADS:
                shape = SMALL_BATCHES if servers > MANY and mode.shape is BATCHES else mode.shape
                yield mode, Workload(servers, shape, service, load, jobs)


def printed(rows: Sequence[Row]) -> str:
    names = [policy.name for policy in POLICIES]
    titles = ("workers", "mode", "service", "load", "broker p50", "p99 ms", "central p50", "p99 ms")
    lines = [
        (
            r.workload.servers, r.mode, r.workload.service, f"{r.workload.load:.0%}",
            f"{r.p50['broker'] * 1e3:.2f}", f"{r.p99['broker'] * 1e3:.2f}",
            f"{r.p50[Central.name] * 1e3:.2f}", f"{r.p99[Central.name] * 1e3:.2f}", f"{r.ratio:.3f}",
            *(f"{r.p99[name] / r.p99[Central.name]:.2f}" for name in names[1:]), f"{r.cost_us:.0f}", r.verdict,
        )
        for r in rows
    ]  # fmt: skip
    return table((*titles, "broker/central", *names[1:], "core us", "verdict"), lines)


def decision_costs(rows: Sequence[Row]) -> str:
    """The core's time for each request, by how many workers there are: the medians over all rows of a mode."""
    lines = []
    for mode in MODES:
        costs = {
            servers: float(np.median([r.cost_us for r in rows if r.mode == mode.name and r.workload.servers == servers]))
            for servers in (8, 512)
        }
        ratio = costs[512] / costs[8]
        verdict = "ok" if ratio <= FLAT else f"wanted: at most {FLAT:g}"
        lines.append((mode.name, f"{costs[8]:.0f}", f"{costs[512]:.0f}", f"{ratio:.1f}", verdict))
    return table(("core us/request", "8 workers", "512 workers", "ratio", "verdict"), lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """p99 sojourn over the central queue's, by load: a panel for each mode and service of the eight workers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(MODES), len(SERVICES), figsize=(13, 6), sharex=True, sharey="row")
    for i, mode in enumerate(mode.name for mode in MODES):
        for j, service in enumerate(SERVICES):
            of = [r for r in rows if (r.workload.servers, r.mode, r.workload.service) == (8, mode, service)]
            for name in ("broker", *(policy.name for policy in POLICIES[1:])):
                ratios = [r.p99[name] / r.p99[Central.name] for r in of]
                style = {"linewidth": 2.5, "color": "black"} if name == "broker" else {"linewidth": 1.2}
                panels[i][j].plot([r.workload.load * 100 for r in of], ratios, marker="o", markersize=3, label=name, **style)
            panels[i][j].axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
            panels[i][j].set_yscale("log")
            panels[i][j].set_title(f"{mode}, {service}", fontsize=9)
            panels[i][j].set_xlabel("load %" if i == len(MODES) - 1 else "")
    panels[0][0].legend(fontsize=8)
    figure.supylabel("p99 sojourn / central queue's", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="1,000,000 requests on 8 workers and 200,000 on 512, not a tenth")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
    parser.add_argument("--jobs", type=int, default=2, help="processes; costs are measured best with 1 [2]")
    parser.add_argument("--plot", type=Path, default=PLOT, help="where the plot goes, if matplotlib is installed")
    options = parser.parse_args()
    scale = options.scale * (10 if options.full else 1)
    wanted = [*cases(8, int(100_000 * scale)), *cases(512, int(20_000 * scale))]
    with ProcessPoolExecutor(options.jobs) as executor:
        rows = list(executor.map(row, *zip(*wanted, strict=True)))
    print(printed(rows))
    print()
    print(decision_costs(rows))
    if find_spec("matplotlib"):
        draw(rows, options.plot)
    print(f"scheduling: {sum(r.verdict != 'ok' for r in rows)} of {len(rows)} rows miss what was wanted")


if __name__ == "__main__":
    main()
