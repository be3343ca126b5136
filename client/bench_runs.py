"""The runs of one `rag-bench`, one after the other, each in one process or in several. Decides nothing about what is counted."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .bench_generator import Job, generate
from .bench_process import Processes
from .bench_queries import Queries
from .bench_records import Taken
from .bench_summary import Figures, Load, figures

HEAD_START_S = 0.05
"""Between the making of an event loop and the beginning of its run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the flags ask for, checked. Times in seconds."""

    url: str
    loads: tuple[Load, ...]
    arrivals: str
    processes: int
    seed: int
    warmup_s: float
    duration_s: float
    grace_s: float
    timeout_s: float
    top_k: int
    priority: int
    collection: str

    @property
    def open(self) -> bool:
        return self.loads[0].open


def measured(plan: Plan, asked: Queries) -> Iterator[Figures]:
    """One row a load. The first Ctrl-C ends the run it finds, which yields what it measured so far, and there is no other."""
    stop_s = plan.warmup_s + plan.duration_s
    interrupted = threading.Event()
    spent = 0
    for load in plan.loads:
        try:
            taken = _run(_jobs(plan, load, asked, spent), interrupted)
        except KeyboardInterrupt:  # before it began, or for the second time: earlier rows are still worth having
            return
        if taken.ended_s > plan.warmup_s:
            yield figures(load, taken, plan.warmup_s, stop_s)
        if interrupted.is_set():
            return
        spent += taken.asked


def _jobs(plan: Plan, load: Load, asked: Queries, spent: int) -> list[Job]:
    """`spent` questions were asked by earlier runs: this one begins behind them, as long as there are others."""
    shares = plan.processes if load.open else min(plan.processes, load.concurrency)
    return [
        Job(
            url=plan.url,
            callers=len(range(share, load.concurrency, shares)),
            rate=load.rate,
            arrivals=plan.arrivals,
            share=share,
            shares=shares,
            seed=plan.seed,
            warmup_s=plan.warmup_s,
            duration_s=plan.duration_s,
            grace_s=plan.grace_s,
            timeout_s=plan.timeout_s,
            top_k=plan.top_k,
            priority=plan.priority,
            collection=plan.collection,
            queries=asked.share(share, shares),
            first=-(-spent // shares),
        )
        for share in range(shares)
    ]


def _run(jobs: list[Job], interrupted: threading.Event) -> Taken:
    if len(jobs) > 1:
        processes = Processes(jobs)
        with _first_interrupt(processes.stop, interrupted):
            return processes.run()
    stops: list[Callable[[], None]] = []

    def stop() -> None:
        if not stops:  # nothing has begun
            raise KeyboardInterrupt
        stops[0]()

    with _first_interrupt(stop, interrupted):
        return generate(jobs[0], time.monotonic() + HEAD_START_S, stops.append)


@contextmanager
def _first_interrupt(stop: Callable[[], None], interrupted: threading.Event) -> Iterator[None]:
    """Inside it the first Ctrl-C sets `interrupted` and calls `stop`; a second one ends the program as usual."""

    def once(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupted.set()
        stop()

    before = signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
