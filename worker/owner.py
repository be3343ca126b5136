"""The threads that own tokenizer, model and index: they load them, run batches, and stamp what they run.

A batch passes three stages: prepare, compute, finish. With no streams one thread does all three, batch after batch. With n
streams this thread prepares, n threads compute, and one finishes, so that the device never waits for what the processor does
before and after; a batch is formed only once there is room for it. None of them touches the socket: jobs come in and answers
go out through queues, and a byte on `wake` tells the I/O thread to look.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Union

from ..conf.settings import ConfigurationError
from ..wire import exit_codes
from ..wire.bodies import decode_work
from ..wire.errors import RagpoolError, RemoteFailure
from ..wire.messages import Failure, Limits, Register, Reply, Request
from ..wire.progress import ProgressWriter
from ..wire.record import record
from . import faults
from .batcher import Budget, Job, next_batch
from .in_flight import InFlight

MEMORY_FAULTS_MAX = 3
"""Batches in a row that ran out of memory, alone, before the process is recycled."""

log = logging.getLogger(__name__)

Answer = Union[Reply, Failure]


class Runner(Protocol):
    """What runs a batch: the pipeline. Each stage is given what the one before it made."""

    def prepare(self, jobs: Sequence[Job]) -> Any: ...

    def compute(self, prepared: Any) -> Any: ...

    def finish(self, computed: Any, limits: Limits) -> list[Answer]: ...

    def stream(self) -> AbstractContextManager[Any]: ...


@record
class Loaded:
    """What loading gives: who we are now, how to run batches, how large they may be, and how many run on the device at a time.

    With `streams` 0 one thread does everything: right where the device is the very core that the other threads would need.
    """

    info: Register
    runner: Runner
    budget: Budget
    streams: int = 0


@dataclass(slots=True)
class Batch:
    """Jobs that run together; `number` in the progress buffer, and what the last stage made of them."""

    jobs: list[Job]
    limits: Limits
    number: int
    made: Any = None


@record
class Ended:
    """This thread cannot go on; the process exits with `code`."""

    code: int
    sentence: str


Outcome = Union[Loaded, Ended, list[Answer]]


class Owner(threading.Thread):
    """`load` runs first, on this thread. Outcomes are read by `take`; after each, `wake` is called."""

    def __init__(self, load: Callable[[], Loaded], progress: ProgressWriter, wake: Callable[[], None]) -> None:
        super().__init__(name="device", daemon=True)
        self._load = load
        self._in_flight = InFlight(progress)
        self._wake = wake
        self._arrived = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._limits = Limits()
        self._outcomes: deque[Outcome] = deque()
        self._memory_faults = 0
        self._broken = False

    # ---- the I/O thread's side -------------------------------------------------------------------------------------

    def give(self, requests: Sequence[Request], limits: Limits) -> None:
        """These are to be run; those whose bodies are wrong are answered at once."""
        jobs: list[Job] = []
        for request in requests:
            try:
                jobs.append(Job(request, decode_work(request, limits)))
            except RagpoolError as error:
                self._tell([Failure(request.id, error.code, error.message)])
        with self._arrived:
            self._limits = limits
            self._waiting += jobs
            self._arrived.notify()

    def take(self) -> list[Outcome]:
        """All outcomes since the last call."""
        taken = []
        while self._outcomes:
            taken.append(self._outcomes.popleft())
        return taken

    def turned(self, now_ns: int) -> None:
        """The I/O thread goes round, as it does each second at least."""
        self._in_flight.turned(now_ns)

    # ---- its own side ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            loaded = self._load()
        except ConfigurationError as error:
            return self._tell(Ended(exit_codes.CONFIGURATION, str(error)))
        except Exception as error:
            log.exception("loading failed")
            return self._tell(_ended("loading failed", error))
        self._tell(loaded)
        return self._overlapped(loaded) if loaded.streams else self._in_turn(loaded)

    def _in_turn(self, loaded: Loaded) -> None:
        def work() -> None:
            while (batch := self._next(loaded.budget)) and self._whole(loaded.runner, batch):
                pass

        self._on_stream(loaded.runner, work)

    def _on_stream(self, runner: Runner, work: Callable[[], None]) -> None:
        """Runs `work` on a stream of its own; without one, this process cannot go on."""
        try:
            with runner.stream():
                work()
        except Exception as error:
            log.exception("a thread of the device ended")
            self._tell(_ended("a thread of the device ended", error))

    def _next(self, budget: Budget) -> Batch | None:
        """Waits for work; None when the device broke meanwhile."""
        with self._arrived:
            while not self._waiting and not self._broken:
                self._arrived.wait()
            return None if self._broken else self._batch(next_batch(self._waiting, budget), self._limits)

    def _batch(self, jobs: list[Job], limits: Limits) -> Batch:
        return Batch(jobs, limits, self._in_flight.start([job.request.id for job in jobs], time.monotonic_ns()))

    def _whole(self, runner: Runner, batch: Batch) -> bool:
        """All stages of one batch, and whether the device still works."""
        return all(self._stage(runner, batch, stage) for stage in (self._prepare, self._compute, self._finish))

    def _overlapped(self, loaded: Loaded) -> None:
        """Prepares here; there is room for one batch more than compute at a time. Returns when the device broke."""
        room = threading.Semaphore(loaded.streams + 1)
        prepared: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        computed: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        runner = loaded.runner

        def work() -> None:
            while self._stage(runner, batch := prepared.get(), self._compute):
                room.release()
                computed.put(batch)

        def compute() -> None:
            self._on_stream(runner, work)
            with self._arrived:
                self._broken = True
                self._arrived.notify()
            room.release()

        def finish() -> None:
            while self._stage(runner, computed.get(), self._finish):
                pass

        for number in range(loaded.streams):
            threading.Thread(target=compute, name=f"device-{number}", daemon=True).start()
        threading.Thread(target=finish, name="replies", daemon=True).start()
        while room.acquire() and (batch := self._next(loaded.budget)) and self._stage(runner, batch, self._prepare):
            prepared.put(batch)

    # ---- the stages of a batch: each is skipped by one that was answered before ------------------------------------------

    def _prepare(self, runner: Runner, batch: Batch) -> None:
        batch.made = runner.prepare(batch.jobs)

    def _compute(self, runner: Runner, batch: Batch) -> None:
        batch.made = runner.compute(batch.made)
        self._memory_faults = 0

    def _finish(self, runner: Runner, batch: Batch) -> None:
        answers = runner.finish(batch.made, batch.limits)
        self._end(batch)
        self._tell(answers)

    def _end(self, batch: Batch) -> None:
        """All of it is answered."""
        batch.jobs = []
        self._in_flight.end(batch.number, time.monotonic_ns())

    def _stage(self, runner: Runner, batch: Batch, stage: Callable[[Runner, Batch], None]) -> bool:
        """False when the device broke: the stamp stays, so that the post-mortem names what ran."""
        if not batch.jobs:
            return True
        try:
            stage(runner, batch)
        except Exception as error:
            if faults.classify(error) == faults.CUDA:
                log.error("the device is broken: %s", _words(error))
                self._tell(Ended(exit_codes.CUDA_BROKEN, f"the device is broken: {_words(error)}"))
                return False
            return self._failed(runner, batch, error)
        return True

    def _failed(self, runner: Runner, batch: Batch, error: Exception) -> bool:
        """In halves, so that one request fails alone; recycled when memory does not suffice for single ones, again and again."""
        jobs, limits = batch.jobs, batch.limits
        self._end(batch)
        out_of_memory = faults.classify(error) == faults.OUT_OF_MEMORY
        if len(jobs) > 1:
            log.warning("%s with %d requests: in halves", _words(error), len(jobs))
            middle = len(jobs) // 2
            return all(self._whole(runner, self._batch(half, limits)) for half in (jobs[:middle], jobs[middle:]))
        log.error("a request failed", exc_info=error)
        self._tell([Failure(jobs[0].request.id, RemoteFailure.code, f"the worker failed: {_words(error)}")])
        self._memory_faults += out_of_memory
        if self._memory_faults >= MEMORY_FAULTS_MAX:
            self._tell(Ended(exit_codes.AGAIN, "out of memory again and again"))
        return True

    def _tell(self, outcome: Outcome) -> None:
        if outcome != []:
            self._outcomes.append(outcome)
            self._wake()


def _ended(what: str, error: Exception) -> Ended:
    code = exit_codes.CUDA_BROKEN if faults.classify(error) == faults.CUDA else exit_codes.FAILURE
    return Ended(code, f"{what}: {_words(error)}")


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
