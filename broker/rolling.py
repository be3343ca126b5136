"""A restart of all workers of other hosts, one at a time. Pure: looks at who is there, says whom to restart next.

Those of our own parent are its to replace (`supervisor.rollout`); these can only be told over the wire to drain and come again.

The next one goes only once the successor of the one before is ready. If that does not come in time the rest stays as it is: a
pool that cannot come back must not be taken down by its own restart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from .states import DRAINING, READY
from .workers import Worker


class Rolling:
    """`patience_s`: how long one worker may take to drain, end and load. `told`: how it stands, "" if never begun."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._waiting: deque[str] = deque()
        self._replaced: tuple[str, int, str] | None = None
        self._known: frozenset[str] = frozenset()
        self._since = 0.0
        self.told = ""

    @property
    def active(self) -> bool:
        return bool(self._waiting) or self._replaced is not None

    def begin(self, workers: Collection[Worker]) -> int:
        """Restart all of these that somebody starts again (a worker without a slot has nobody). How many that are."""
        names = [worker.info.incarnation for worker in workers if worker.info.slot >= 0 and worker.state.name != DRAINING]
        self._waiting = deque(names)
        self._replaced = None
        self.told = self._progress()
        return len(names)

    def next(self, workers: Collection[Worker], now: float) -> str | None:
        """The incarnation to restart now; None: nobody (yet)."""
        by_name = {worker.info.incarnation: worker for worker in workers}
        if self._replaced is not None:
            if not self._is_replaced(workers):
                if now > self._since + self._patience_s:
                    self.told = f"given up: slot {self._replaced[1]} did not come back, {len(self._waiting)} were left alone"
                    self._waiting.clear()
                    self._replaced = None
                return None
            self._replaced = None
        while self._waiting:
            worker = by_name.get(self._waiting.popleft())
            if worker is not None:  # one that died meanwhile is replaced already
                self._replaced, self._since = _place(worker), now
                self._known = frozenset(by_name)
                self.told = self._progress()
                return worker.info.incarnation
        self.told = "done"
        return None

    def _is_replaced(self, workers: Collection[Worker]) -> bool:
        return any(
            _place(worker) == self._replaced and worker.info.incarnation not in self._known and worker.state.name == READY
            for worker in workers
        )

    def _progress(self) -> str:
        now = f"slot {self._replaced[1]} is replaced, " if self._replaced else ""
        return f"{now}{len(self._waiting)} to go"


def _place(worker: Worker) -> tuple[str, int, str]:
    return worker.info.host, worker.info.slot, worker.info.device
