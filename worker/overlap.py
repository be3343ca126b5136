"""Batches in several stages at once, so that the device never waits for what the processor does before and after."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from .stages import Batch, Stages


class Overlap:
    """The calling thread prepares, `streams` threads compute, each on a stream of its own, and one finishes.

    `form` gives the next batch, None when nothing more is to be begun; it is asked only once there is room for one batch more
    than compute at a time. A thread that fails tells `failed`; when one ends, for whatever reason, `stop` is called.
    """

    def __init__(
        self,
        stages: Stages,
        streams: int,
        form: Callable[[], Batch | None],
        failed: Callable[[Exception], None],
        stop: Callable[[], None],
    ) -> None:
        self._stages = stages
        self._streams = streams
        self._form = form
        self._failed = failed
        self._stop = stop
        self._stopped = False
        self._warm = threading.Semaphore(0)
        self._room = threading.Semaphore(streams + 1)
        self._prepared: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self._computed: queue.SimpleQueue[Batch] = queue.SimpleQueue()

    def run(self, warm: Callable[[], None]) -> None:
        """Until the device breaks. `warm` is called once each stream has answered a first question: what a thread and a stream
        need on a device is made for the first who asks."""
        for number in range(self._streams):
            threading.Thread(target=self._thread, args=(self._compute,), name=f"device-{number}", daemon=True).start()
        threading.Thread(target=self._thread, args=(self._finish,), name="replies", daemon=True).start()
        for _ in range(self._streams):
            self._warm.acquire()
        if not self._stopped:
            warm()
        while self._room.acquire() and (batch := self._form()) and self._stages.prepare(batch):
            self._prepared.put(batch)

    def _compute(self) -> None:
        with self._stages.stream():
            self._stages.warm_up()
            self._warm.release()
            while self._stages.compute(batch := self._prepared.get()):
                self._room.release()
                self._computed.put(batch)

    def _finish(self) -> None:
        while self._stages.finish(self._computed.get()):
            pass

    def _thread(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._failed(error)
        self._stopped = True
        self._stop()
        self._warm.release()
        self._room.release()
