"""The thread that owns tokenizer, model and index: it loads them, forms batches, and runs them or has others run them.

With no streams it does all three stages of a batch, batch after batch; with some see `overlap`. None of these threads touches
the socket: jobs come in and answers go out through queues, and a byte on `wake` tells the I/O thread to look.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Union

from ..conf.settings import ConfigurationError
from ..wire import exit_codes
from ..wire.bodies import decode_work
from ..wire.errors import RagpoolError
from ..wire.messages import Failure, Limits, Register, Request
from ..wire.progress import ProgressWriter
from ..wire.record import record
from . import faults
from .batcher import Budget, Job, next_batch
from .in_flight import InFlight
from .overlap import Overlap
from .stages import Answer, Batch, Ended, Runner, Stages, fault_of

THREAD_ENDED = "a thread of the device ended"

log = logging.getLogger(__name__)


@record
class Loaded:
    """What loading gives: who we are now, how to run batches, how large they may be, and how many run on the device at a time.

    With `streams` 0 one thread does everything: right where the device is the very core that the other threads would need.
    """

    info: Register
    runner: Runner
    budget: Budget
    streams: int = 0


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
        self._stopped = False

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
            return self._failed("loading failed", error)
        try:
            self._serve(loaded, Stages(loaded.runner, self._in_flight, self._tell))
        except Exception as error:
            self._failed(THREAD_ENDED, error)

    def _serve(self, loaded: Loaded, stages: Stages) -> None:
        def form() -> Batch | None:
            return self._next(loaded.budget, stages)

        if loaded.streams:
            overlap = Overlap(stages, loaded.streams, form, partial(self._failed, THREAD_ENDED), self._halt)
            overlap.run(partial(self._tell, loaded))
        else:
            self._tell(loaded)
            with stages.stream():
                while (batch := form()) and stages.whole(batch):
                    pass

    def _next(self, budget: Budget, stages: Stages) -> Batch | None:
        """Waits for work; None when a thread ended meanwhile."""
        with self._arrived:
            while not self._waiting and not self._stopped:
                self._arrived.wait()
            return None if self._stopped else stages.start(next_batch(self._waiting, budget), self._limits)

    def _halt(self) -> None:
        with self._arrived:
            self._stopped = True
            self._arrived.notify()

    def _failed(self, what: str, error: Exception) -> None:
        log.exception(what)
        fault = fault_of(error)
        code = exit_codes.CUDA_BROKEN if fault.kind == faults.CUDA else exit_codes.FAILURE
        self._tell(Ended(code, f"{what}: {fault.words}"))

    def _tell(self, outcome: Outcome) -> None:
        if outcome != []:
            self._outcomes.append(outcome)
            self._wake()
