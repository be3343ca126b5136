"""A CUDA device whose processes keep breaking is left alone as a whole, and probed by one of its slots. Pure.

    closed -> (more than `restarts_max` CUDA errors of its slots within the window) -> held -> (time is up) -> one slot probes
    -> it loads: the others follow, and until the probe was healthy for a while one more CUDA error holds all of them again

Processes that still run there are left alone: they serve.
"""

from __future__ import annotations

from collections import deque

from ..wire.exit_codes import CUDA_BROKEN
from .exits import Exit
from .policy import BACKOFF, QUARANTINED, Hold, SlotPolicy
from .rules import RestartRules


class CudaDevice:
    """`slots` are the policies of the slots on it. Every method is called after the slot's own policy has judged."""

    def __init__(self, rules: RestartRules) -> None:
        self.slots: list[SlotPolicy] = []
        self._rules = rules
        self._counted: deque[float] = deque()
        self._held_until: float | None = None
        self._on_trial_until = 0.0

    @property
    def held(self) -> bool:
        return self._held_until is not None

    def ended(self, slot: SlotPolicy, end: Exit, now: float) -> None:
        """A process of `slot` ended."""
        if end.code == CUDA_BROKEN:
            self._counted.append(now)
            while self._counted[0] <= now - self._rules.restarts_window_s:
                self._counted.popleft()
            most = self._rules.restarts_max
            too_many = most is not None and len(self._counted) > most
            if too_many or self.held or now < self._on_trial_until:
                self._hold(now)
        elif self._held_until is not None and slot.state == BACKOFF:
            slot.receive(Hold(self._held_until), now)

    def loaded(self, now: float) -> None:
        """A process loaded on it, and answered its own first query: the others may follow."""
        if not self.held:
            return
        self._held_until = None
        self._on_trial_until = now + self._rules.healthy_after_s
        self._counted.clear()
        for slot in self.slots:
            if slot.state == QUARANTINED:
                slot.receive(Hold(now), now)

    def tick(self, now: float) -> None:
        """Time passed; before the slots' own ticks. When the time is up one slot goes first, and the others wait for it."""
        if self._held_until is None or now < self._held_until:
            return
        waiting = [slot for slot in self.slots if slot.state == QUARANTINED]
        self._held_until = now + self._rules.quarantine_probe_s if waiting else None
        for slot in waiting[1:]:
            slot.receive(Hold(now + self._rules.quarantine_probe_s), now)

    def _hold(self, now: float) -> None:
        self._held_until = now + self._rules.quarantine_probe_s
        for slot in self.slots:
            slot.receive(Hold(self._held_until), now)
