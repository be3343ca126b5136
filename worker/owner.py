"""The thread that owns tokenizer, model and index: it loads them, runs batches, and stamps what it runs.

It never touches the socket: jobs come in and answers go out through queues, and a byte on `wake` tells the I/O thread to look.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Union

from ..conf.settings import ConfigurationError
from ..wire import exit_codes
from ..wire.bodies import decode_work
from ..wire.errors import RagpoolError, RemoteFailure
from ..wire.messages import Failure, Limits, Register, Reply, Request
from ..wire.progress import ProgressWriter
from . import faults
from .batcher import Budget, Job, next_batch

MEMORY_FAULTS_MAX = 3
"""Batches in a row that ran out of memory, alone, before the process is recycled."""

log = logging.getLogger(__name__)

Answer = Union[Reply, Failure]


class Runner(Protocol):
    """What runs a batch: the pipeline."""

    def run(self, jobs: Sequence[Job], limits: Limits) -> list[Answer]: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading gives: who we are now, how to run batches, and how large they may be."""

    info: Register
    runner: Runner
    budget: Budget


@dataclass(frozen=True, slots=True)
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
        self._progress = progress
        self._wake = wake
        self._arrived = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._limits = Limits()
        self._outcomes: deque[Outcome] = deque()
        self._memory_faults = 0

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

    # ---- its own side ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            loaded = self._load()
        except ConfigurationError as error:
            return self._tell(Ended(exit_codes.CONFIGURATION, str(error)))
        except Exception as error:
            log.exception("loading failed")
            code = exit_codes.CUDA_BROKEN if faults.classify(error) == faults.CUDA else exit_codes.FAILURE
            return self._tell(Ended(code, f"loading failed: {_words(error)}"))
        self._tell(loaded)
        while True:
            with self._arrived:
                while not self._waiting:
                    self._arrived.wait()
                batch, limits = next_batch(self._waiting, loaded.budget), self._limits
            if not self._run(loaded.runner, batch, limits):
                return None

    def _run(self, runner: Runner, batch: list[Job], limits: Limits) -> bool:
        """False when the device broke: the stamp stays, so that the post-mortem names what ran."""
        self._progress.start(time.monotonic_ns(), [job.request.id for job in batch])
        try:
            answers = runner.run(batch, limits)
            self._memory_faults = 0
        except Exception as error:
            if faults.classify(error) == faults.CUDA:
                log.error("the device is broken: %s", _words(error))
                self._tell(Ended(exit_codes.CUDA_BROKEN, f"the device is broken: {_words(error)}"))
                return False
            self._progress.clear()
            return self._failed(runner, batch, limits, error)
        self._progress.clear()
        self._tell(answers)
        return True

    def _failed(self, runner: Runner, batch: list[Job], limits: Limits, error: Exception) -> bool:
        """Out of memory: in halves, and recycled when even single requests do not fit, again and again."""
        out_of_memory = faults.classify(error) == faults.OUT_OF_MEMORY
        if out_of_memory and len(batch) > 1:
            log.warning("out of memory with %d requests: in halves", len(batch))
            middle = len(batch) // 2
            return self._run(runner, batch[:middle], limits) and self._run(runner, batch[middle:], limits)
        log.error("a batch of %d requests failed", len(batch), exc_info=error)
        sentence = f"the worker failed: {_words(error)}"
        self._tell([Failure(job.request.id, RemoteFailure.code, sentence) for job in batch])
        self._memory_faults += out_of_memory
        if self._memory_faults >= MEMORY_FAULTS_MAX:
            self._tell(Ended(exit_codes.AGAIN, "out of memory again and again"))
        return True

    def _tell(self, outcome: Outcome) -> None:
        if outcome != []:
            self._outcomes.append(outcome)
            self._wake()


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
