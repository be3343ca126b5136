"""Workers that died and were not replaced yet: the status shows them as dead instead of hiding them."""

from __future__ import annotations

from ..wire.messages import Register
from .workers import Worker

SHOWN_S = 600.0
SHOWN_MAX = 32


class Departed:
    def __init__(self) -> None:
        self._until: dict[tuple[str, int, str, str], tuple[Worker, float]] = {}

    def add(self, worker: Worker, now: float) -> None:
        """It died just now; the longest dead are forgotten where there are too many."""
        self._until[_place(worker.info) + (worker.info.incarnation,)] = (worker, now + SHOWN_S)
        while len(self._until) > SHOWN_MAX:
            del self._until[next(iter(self._until))]

    def replaced_by(self, info: Register) -> None:
        """A worker joined: those before it in its place are history."""
        if self._until:
            self._until = {key: kept for key, kept in self._until.items() if key[:3] != _place(info)}

    def shown(self, now: float) -> list[Worker]:
        return [worker for worker, until in self._until.values() if now < until]


def _place(info: Register) -> tuple[str, int, str]:
    return info.host, info.slot, info.device
