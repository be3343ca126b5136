"""One server's share of one round: its answers checked, then load at each concurrency, bursts at an idle server, memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .contestants import Serving, serving, until_settled
from .driver import AskFailed, Timing, burst, closed_loop, open_loop
from .ideal import Service
from .processes import cpu_s_of_all, pss_mb_of_all
from .records import BURSTS, MEMORY_AT, SERVICE_SIZES, Contestant, Round
from .servers.work import TOP_K
from .stats import Point, percentile, point, right
from .truth import Scores

IDLE_S = 0.3
BURST_GIVE_UP_S = 30.0
CHECKED_AT_ONCE = 10


@dataclass(frozen=True)
class Plan:
    """How long a round is. `seconds` of each concurrency; `bursts` of each size; `open_s` of the open loop."""

    rounds: int
    seconds: Mapping[int, float]
    warm_s: float
    drain_s: float
    bursts: int
    ceiling_s: float
    open_s: float

    @property
    def callers(self) -> list[int]:
        return list(self.seconds)


FULL = Plan(3, {1: 2.5, 10: 2.5, 100: 4.0, 500: 4.0}, warm_s=0.7, drain_s=15.0, bursts=3, ceiling_s=4.0, open_s=12.0)
QUICK = Plan(1, {1: 1.0, 10: 1.0, 100: 2.0, 500: 2.0}, warm_s=0.5, drain_s=6.0, bursts=1, ceiling_s=1.5, open_s=4.0)


async def run_round(
    contestant: Contestant, index: Path, python: str, plan: Plan, queries: Iterator[str], truth: Mapping[str, Scores]
) -> Round:
    """Raises `DidNotStart`."""
    async with serving(contestant, index, python) as found:
        wrong = await _check(found, truth)
        points: dict[int, Point] = {}
        bursts: dict[int, float] = {}
        memory = worker_ms = 0.0
        for callers in plan.callers:
            timing = Timing(plan.warm_s, plan.seconds[callers], plan.drain_s)
            workers_before = cpu_s_of_all(found.worker_pids)
            window = await closed_loop(found.ask, queries, callers, timing, found.server.cpu_s)
            points[callers] = point(window)
            if window.unanswered:
                await until_settled(found.server)
            if callers == MEMORY_AT:
                worker_ms = (cpu_s_of_all(found.worker_pids) - workers_before) / max(1, len(window.answered)) * 1e3
                memory = pss_mb_of_all(found.server.tree())
                bursts = {count: await _burst_ms(found, queries, count, plan) for count in BURSTS}
        rate, latencies = 0.0, list[float]()
        if found.worker_pids and points[MEMORY_AT].qps:
            rate = 0.8 * points[MEMORY_AT].qps
            found.stages.clear()
            latencies = await open_loop(found.ask, queries, rate, plan.open_s, seed=1)
        return Round(
            points,
            bursts,
            memory,
            len(truth),
            wrong,
            worker_ms,
            rate,
            [percentile(latencies, share) * 1e3 for share in (0.5, 0.99)],
            Service.told(found.stages, SERVICE_SIZES) if rate else None,
        )


async def best_rate(contestant: Contestant, index: Path, python: str, seconds: float, queries: Iterator[str]) -> float:
    """Queries a second at concurrency 100: what servers are tuned by. Raises `DidNotStart`."""
    async with serving(contestant, index, python) as found:
        window = await closed_loop(found.ask, queries, 100, Timing(1.0, seconds, 0.0), found.server.cpu_s)
        return point(window).qps


async def _check(found: Serving, truth: Mapping[str, Scores]) -> int:
    """How many answers are wrong; they are asked a few at a time, so that batches are made."""
    turn = asyncio.Semaphore(CHECKED_AT_ONCE)

    async def one(query: str) -> bool:
        async with turn:
            try:
                return right(await found.ask(query), truth[query], TOP_K)
            except AskFailed:
                return False

    return sum(not good for good in await asyncio.gather(*map(one, truth)))


async def _burst_ms(found: Serving, queries: Iterator[str], count: int, plan: Plan) -> float:
    times = []
    for _ in range(plan.bursts):
        await asyncio.sleep(IDLE_S)
        times.append(await burst(found.ask, queries, count, BURST_GIVE_UP_S))
    return median(times) * 1e3
