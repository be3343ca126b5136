"""The probe: a child that asks the pool one real question before the pool is called ready. Tried again until it is answered."""

from __future__ import annotations

from collections.abc import Callable

from .children import Children
from .exits import Exit, last_line, not_started
from .process import Child, ChildSpec

RETRY_S = 1.0

Told = Callable[[Exit, str], None]


class Probing:
    """`told` gets each end of the probe with its last line; exit code 0 means that the answer came."""

    def __init__(self, spec: ChildSpec, children: Children, told: Told) -> None:
        self._spec = spec
        self._children = children
        self._told = told
        self._child: Child | None = None
        self.due_at: float | None = None

    def want(self, now: float) -> None:
        """Start it at the next `advance`, unless it is under way."""
        if self._child is None and self.due_at is None:
            self.due_at = now

    def advance(self, now: float) -> None:
        if self.due_at is None or now < self.due_at:
            return
        self.due_at = None
        try:
            self._child = self._children.start(self._spec, self._ended)
        except OSError as error:
            self._told(not_started(str(error)), "")

    def retry(self, now: float) -> None:
        """It failed; ask again in a moment."""
        self.due_at = now + RETRY_S

    def stop(self) -> None:
        """It is not needed any more."""
        self.due_at = None
        if self._child is not None:
            self._children.kill(self._child)

    def _ended(self, child: Child) -> None:
        end = self._children.reap(child)
        if end is None:
            return
        self._child = None
        sentence = last_line(child.last_log())
        child.close()
        self._told(end, sentence)
