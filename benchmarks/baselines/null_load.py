"""What the load generator itself costs a request: asked of servers that do nothing, over HTTP and through `AsyncClient`."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench_parts import broker
from ragpool.client import AsyncClient

from .contestants import http_ask, json_body, json_hits, pool_ask
from .driver import Ask, AskFailed, Timing, closed_loop
from .http1 import HttpClient
from .processes import end, free_port
from .servers.null import HITS, LETTERS
from .stats import point

CALLERS = 100
START_S = 20.0
_BENCHMARKS = Path(__file__).resolve().parent.parent


def _questions() -> Iterator[str]:
    return (f"what is the question number {n}" for n in itertools.count())


async def _cost_us(ask: Ask, seconds: float) -> float:
    """Microseconds of this process for each request."""
    give_up = asyncio.get_running_loop().time() + START_S
    while True:
        try:
            await ask("are you there")
            break
        except AskFailed:
            if asyncio.get_running_loop().time() > give_up:
                raise
            await asyncio.sleep(0.05)
    window = await closed_loop(ask, _questions(), CALLERS, Timing(0.3, seconds, 5.0), lambda: 0.0)
    return point(window).driver_ms * 1e3


async def _http(port: int, seconds: float) -> float:
    client = HttpClient(port, "/search")
    try:
        return await _cost_us(http_ask(client, json_body, json_hits), seconds)
    finally:
        client.close()


async def _pool(url: str, seconds: float) -> float:
    async with AsyncClient(url) as client:
        return await _cost_us(pool_ask(client, []), seconds)


def costs_us(seconds: float) -> tuple[float, float]:
    """(over HTTP, through `AsyncClient`)."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.servers.null", str(port)], env={**os.environ, "PYTHONPATH": str(_BENCHMARKS)}
    )
    try:
        over_http = asyncio.run(_http(port, seconds))
    finally:
        end(process)
    with broker(2, "--max-batch", "32", "--answer", "search", "--hits", str(HITS), "--letters", str(LETTERS)) as service:
        return over_http, asyncio.run(_pool(service.frontend, seconds))
