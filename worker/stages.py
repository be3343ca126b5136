"""A batch through its three stages, and what becomes of one that fails in them. May be called from any thread of the device.

Each stage says whether the device still works. A batch that fails is run again in halves, so that one request fails alone; the
halves go through all stages at once, on the thread where the whole failed, and nothing of that attempt is kept meanwhile.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Union

from ..wire import exit_codes
from ..wire.errors import RemoteFailure
from ..wire.messages import Failure, Limits, Reply
from ..wire.record import record
from . import faults
from .batcher import Job
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

    def warm_up(self) -> None: ...


@dataclass(slots=True)
class Batch:
    """Jobs that run together, none once they are answered; `number` in the progress buffer, and what the last stage made."""

    jobs: list[Job]
    limits: Limits
    number: int
    made: Any = None


@record
class Ended:
    """This process cannot go on; it exits with `code`."""

    code: int
    sentence: str


@record
class Fault:
    """What an exception was, without the exception: that holds on to all that its frames had on the device."""

    kind: str
    words: str
    trace: str


class Stages:
    """`tell` takes answers, and the end of the process. A batch that was answered passes every stage untouched."""

    def __init__(self, runner: Runner, in_flight: InFlight, tell: Callable[[list[Answer] | Ended], None]) -> None:
        self.stream = runner.stream
        self.warm_up = runner.warm_up
        self._runner = runner
        self._in_flight = in_flight
        self._tell = tell
        self._memory_faults = 0

    def start(self, jobs: list[Job], limits: Limits) -> Batch:
        """These run together from now on."""
        return Batch(jobs, limits, self._in_flight.start([job.request.id for job in jobs], time.monotonic_ns()))

    def prepare(self, batch: Batch) -> bool:
        return self._passed(batch, lambda: self._runner.prepare(batch.jobs))

    def compute(self, batch: Batch) -> bool:
        works = self._passed(batch, lambda: self._runner.compute(batch.made))
        if works and batch.jobs:
            self._memory_faults = 0
        return works

    def finish(self, batch: Batch) -> bool:
        works = self._passed(batch, lambda: self._runner.finish(batch.made, batch.limits))
        if works and batch.jobs:
            answers = batch.made
            self._end(batch)
            self._tell(answers)
        return works

    def whole(self, batch: Batch) -> bool:
        """All three, one after the other."""
        return self.prepare(batch) and self.compute(batch) and self.finish(batch)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _end(self, batch: Batch) -> None:
        batch.jobs, batch.made = [], None
        self._in_flight.end(batch.number, time.monotonic_ns())

    def _passed(self, batch: Batch, stage: Callable[[], Any]) -> bool:
        if not batch.jobs:
            return True
        try:
            batch.made = stage()
            return True
        except Exception as error:
            fault = fault_of(error)
        return self._failed(batch, fault)  # behind the handler, which would keep the exception

    def _failed(self, batch: Batch, fault: Fault) -> bool:
        if fault.kind == faults.CUDA:  # its stamp stays, so that the post-mortem names what ran
            log.error("the device is broken: %s", fault.words)
            self._tell(Ended(exit_codes.CUDA_BROKEN, f"the device is broken: {fault.words}"))
            return False
        jobs, limits = batch.jobs, batch.limits
        self._end(batch)
        if len(jobs) > 1:
            log.warning("%s with %d requests: in halves", fault.words, len(jobs))
            middle = len(jobs) // 2
            with self.stream():
                return all(self.whole(self.start(half, limits)) for half in (jobs[:middle], jobs[middle:]))
        log.error("a request failed\n%s", fault.trace)
        self._tell([Failure(jobs[0].request.id, RemoteFailure.code, f"the worker failed: {fault.words}")])
        self._memory_faults += fault.kind == faults.OUT_OF_MEMORY
        if self._memory_faults >= MEMORY_FAULTS_MAX:
            self._tell(Ended(exit_codes.AGAIN, "out of memory again and again"))
        return True


def fault_of(error: Exception) -> Fault:
    """What `error` was; call it where it is handled."""
    lines = str(error).strip().splitlines()
    words = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return Fault(faults.classify(error), words, traceback.format_exc().rstrip())
