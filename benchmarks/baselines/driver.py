"""The load generator: one asyncio process, the same for every server; what differs is `ask`. It knows no server.

Closed loop: C callers ask one query each and wait for it. Burst: n single requests at once. Open loop: arrivals at times drawn
beforehand, each latency counted from the time it should have been sent at.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from .stats import Seen, Window

Ask = Callable[[str], Awaitable[list[str]]]
"""A query to the ids of its passages. Raises `AskFailed`."""

Clock = Callable[[], float]
"""Processor seconds that somebody used so far."""

FAILED_PAUSE_S = 0.05
"""A caller that was refused waits so long before it asks again."""


class AskFailed(Exception):
    """The server answered with an error, or with the wrong number of passages."""


@dataclass(frozen=True)
class Timing:
    """`warm_s` is not counted, `seconds` are, and what is unanswered then is waited for `drain_s` more."""

    warm_s: float
    seconds: float
    drain_s: float


async def closed_loop(ask: Ask, queries: Iterator[str], callers: int, timing: Timing, server_cpu: Clock) -> Window:
    """What `callers` saw. The rate counts answers inside the window; latencies are of all requests under way in it."""
    start = time.perf_counter() + timing.warm_s
    end = start + timing.seconds
    answered: list[Seen] = []
    pending: dict[int, float] = {}
    failed = 0

    async def call(number: int) -> None:
        nonlocal failed
        while (began := time.perf_counter()) < end:
            pending[number] = began
            try:
                await ask(next(queries))
            except AskFailed:
                failed += 1
                await asyncio.sleep(FAILED_PAUSE_S)
            else:
                answered.append(Seen(began, time.perf_counter()))
            del pending[number]

    tasks = [asyncio.create_task(call(number)) for number in range(callers)]
    await asyncio.sleep(timing.warm_s)
    server_before, driver_before = server_cpu(), time.process_time()
    await asyncio.sleep(end - time.perf_counter())
    server_s, driver_s = server_cpu() - server_before, time.process_time() - driver_before
    await asyncio.wait(tasks, timeout=timing.drain_s)
    gave_up = time.perf_counter()
    ages = [gave_up - began for began in pending.values()]
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    return Window(start, end, answered, ages, failed, server_s, driver_s)


async def burst(ask: Ask, queries: Iterator[str], count: int, give_up_s: float) -> float:
    """Seconds from the first of `count` single requests to the last answer; infinite where one fails or is not answered."""
    asked = [next(queries) for _ in range(count)]
    began = time.perf_counter()
    try:
        await asyncio.wait_for(asyncio.gather(*(ask(query) for query in asked)), give_up_s)
    except (AskFailed, asyncio.TimeoutError):
        return float("inf")
    return time.perf_counter() - began


async def open_loop(ask: Ask, queries: Iterator[str], rate: float, seconds: float, seed: int) -> list[float]:
    """Latency in seconds of each of the Poisson arrivals at `rate` a second, from when it was due; infinite where it failed."""
    random_ = random.Random(seed)
    latencies: list[float] = []

    async def one(due: float) -> None:
        try:
            await ask(next(queries))
        except AskFailed:
            latencies.append(float("inf"))
        else:
            latencies.append(time.perf_counter() - due)

    due = began = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()
    while (due := due + random_.expovariate(rate)) < began + seconds:
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.add(task := asyncio.create_task(one(due)))
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=60.0)
    return latencies + [float("inf")] * len(tasks)
