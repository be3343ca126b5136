"""The edge that asks: one event loop, `AsyncClient`s, one row a request. What is counted is decided in bench_summary.

Closed loop: each caller asks its next question when the last was answered. Open loop: a schedule says when, and nothing that the
pool does delays it. Callbacks instead of a task for each caller: five hundred callers must not measure this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, takewhile

from ..wire.errors import RagpoolError
from .aio import AsyncClient
from .bench_arrivals import arrivals
from .bench_records import INTERRUPTED, OK, UNANSWERED, Records, Taken
from .hit import Hits

CALLERS_A_CONNECTION = 256
"""Callers that share one session: well below the window of unanswered requests that a broker allows each."""

CONNECTIONS_MAX = 64
"""Of one process: select() knows no descriptor above 1,023."""

ERROR_PAUSE_S = 0.1
"""A caller of a closed loop waits so long after an error, so that a pool that refuses at once is not hammered."""

OVERTIME_S = 0.25
"""How long after its end an open loop still sends what was due before it."""

TURN = 64
"""Requests of an open loop that are sent between two looks at what was answered."""

TICK_S = 0.02
"""How often a closed loop looks how late its own alarms ring."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one generator process is to do. `rate`: of the whole run; `share`: which of `shares` processes this one is.

    `callers`: of this process, 0 in an open loop. `queries`: its part of them, asked in turn from position `first` on.
    """

    url: str
    callers: int
    rate: float
    arrivals: str
    share: int
    shares: int
    seed: int
    warmup_s: float
    duration_s: float
    grace_s: float
    timeout_s: float
    top_k: int
    priority: int
    collection: str
    queries: list[str]
    first: int


class Generator:
    """One run of one process. Times of its records are seconds since `began`, a reading of the monotonic clock."""

    def __init__(self, job: Job, began: float) -> None:
        self._job = job
        self._began = began
        self._loop = asyncio.get_running_loop()
        self._records = Records()
        self._pending: dict[asyncio.Future[Hits], tuple[float, float]] = {}
        self._idle = asyncio.Event()
        self._ended = asyncio.Event()
        self._stop_s = job.warmup_s + job.duration_s
        self._schedule = arrivals(job.arrivals, job.rate, job.share, job.shares, job.seed) if job.rate else iter(())
        self._due = next(self._schedule, math.inf)
        self._asked = 0
        self._missed = 0
        self._ticks_ms: list[float] = []
        self._cpu: list[float] = []
        connections = min(CONNECTIONS_MAX, max(1, -(-job.callers // CALLERS_A_CONNECTION)))
        self._clients = [AsyncClient(job.url, timeout=job.timeout_s) for _ in range(connections)]

    async def run(self) -> Taken:
        """Until the end of the run or `stop`; then wait for what is open, at most `grace_s` and not at all after `stop`."""
        job = self._job
        self._at(job.warmup_s, self._measure)
        self._at(self._stop_s, self._ended.set)
        self._at(0.0, self._offer if job.rate else self._start_callers)
        await self._ended.wait()
        ended_s = min(self._now(), self._stop_s)
        self._measure()
        if ended_s == self._stop_s:
            await self._wait_for_open()
        self._give_up_open(ended_s)
        for client in self._clients:
            await client.close()
        cpu_s = self._cpu[-1] - self._cpu[0]
        repeated = max(0, self._asked - len(job.queries))
        return Taken(self._records, ended_s, self._ticks_ms, cpu_s, cpu_s, self._missed, self._asked, repeated)

    def stop(self) -> None:
        """End now, also the wait for what is open."""
        self._ended.set()
        self._idle.set()

    def _now(self) -> float:
        return self._loop.time() - self._began

    def _at(self, when_s: float, callback: Callable[[], object]) -> None:
        self._loop.call_at(self._began + when_s, callback)

    def _measure(self) -> None:
        """Processor time at the start and at the end of what is measured."""
        self._cpu.append(time.process_time())

    # ---- closed loop ----------------------------------------------------------------------------------------------------

    def _start_callers(self) -> None:
        self._at(self._job.warmup_s, partial(self._tick, self._job.warmup_s))
        for caller in range(self._job.callers):
            self._call(caller % len(self._clients))

    def _call(self, client: int) -> None:
        now = self._now()
        if now < self._stop_s and not self._ended.is_set():
            self._ask(client, now, partial(self._answered, client))

    def _answered(self, client: int, future: asyncio.Future[Hits]) -> None:
        if self._take(future):
            self._call(client)
        else:
            self._loop.call_later(ERROR_PAUSE_S, self._call, client)

    def _tick(self, due: float) -> None:
        self._ticks_ms.append((self._now() - due) * 1e3)
        if not self._ended.is_set():
            upcoming = max(due + TICK_S, self._now())
            self._at(upcoming, partial(self._tick, upcoming))

    # ---- open loop ------------------------------------------------------------------------------------------------------

    def _offer(self) -> None:
        """Ask whatever is due by now, but look at what was answered after each `TURN`; go on when the next is due."""
        now = self._now()
        if now > self._stop_s + OVERTIME_S:
            self._miss(self._stop_s)
            return
        for _ in range(TURN):
            if self._due > now or self._due >= self._stop_s:
                break
            due, self._due = self._due, next(self._schedule)
            self._ask(0, due, self._take)
        if self._due < self._stop_s:
            self._at(self._due, self._offer)

    def _miss(self, until_s: float) -> None:
        """Count what was due while the run measured, and never is asked."""
        left = takewhile(lambda due: due < until_s, chain((self._due,), self._schedule))
        self._missed = sum(due >= self._job.warmup_s for due in left)
        self._due = math.inf
        self._look_whether_idle()

    # ---- both -----------------------------------------------------------------------------------------------------------

    def _ask(self, client: int, due: float, then: Callable[[asyncio.Future[Hits]], object]) -> None:
        job, sent = self._job, self._now()
        query = job.queries[(job.first + self._asked) % len(job.queries)]
        self._asked += 1
        try:
            future = self._clients[client].submit(query, job.top_k, priority=job.priority, collection=job.collection)
        except RagpoolError as error:  # a query that nobody could ask
            future = self._loop.create_future()
            future.set_exception(error)
        self._pending[future] = (due, sent)
        future.add_done_callback(then)

    def _take(self, future: asyncio.Future[Hits]) -> bool:
        """Record how a request ended; whether it was answered."""
        times = self._pending.pop(future, None)
        if times is None:  # given up, and recorded as such
            return False
        self._look_whether_idle()
        error = future.exception()
        if error is None:
            self._records.add(*times, self._now(), OK, future.result().timings_ms)
        else:
            self._records.add(*times, self._now(), error.code if isinstance(error, RagpoolError) else type(error).__name__)
        return error is None

    def _look_whether_idle(self) -> None:
        if not self._pending and self._due >= self._stop_s and self._ended.is_set():
            self._idle.set()

    async def _wait_for_open(self) -> None:
        self._look_whether_idle()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._job.grace_s)

    def _give_up_open(self, ended_s: float) -> None:
        now = self._now()
        if self._due < ended_s:
            self._miss(ended_s)
        pending, self._pending = self._pending, {}
        for future, times in pending.items():
            self._records.add(*times, now, UNANSWERED if ended_s == self._stop_s else INTERRUPTED)
            future.cancel()


def generate(job: Job, began: float, on_start: Callable[[Callable[[], None]], None]) -> Taken:
    """Run `job` from `began` on. `on_start` is told, inside the event loop, what ends it early, from a signal handler too."""

    def stop(generator: Generator) -> None:
        loop.call_soon_threadsafe(generator.stop)

    async def run() -> Taken:
        generator = Generator(job, began)
        on_start(lambda: stop(generator))
        return await generator.run()

    # select() rounds its timeouts to microseconds, epoll and poll to milliseconds: that would be a lateness of our own
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()
