"""What the parent says of its slots, and so whether capacity can still come."""

from __future__ import annotations

from ..wire.messages import Rollout, SlotBrief

STARTING = "starting"
RUNNING = "running"
BACKOFF = "backoff"
QUARANTINED = "quarantined"
STOPPED = "stopped"

_COMING = frozenset({STARTING, RUNNING, BACKOFF, QUARANTINED})


class Slots:
    """The last snapshot, and when it was taken."""

    def __init__(self) -> None:
        self._slots: tuple[SlotBrief, ...] = ()
        self._taken = 0.0
        self.told = False
        self.rollout = Rollout()

    def update(self, slots: tuple[SlotBrief, ...], now: float) -> None:
        self._slots = slots
        self._taken = now
        self.told = True

    def now(self, slot: object) -> SlotBrief | None:
        """What is known of the slot of that number."""
        return next((brief for brief in self._slots if brief.slot == slot), None)

    @property
    def incarnations(self) -> frozenset[str]:
        """The workers that our own parent started."""
        return frozenset(slot.incarnation for slot in self._slots if slot.incarnation)

    def find(self, name: str) -> int | None:
        """The slot of that number, name ("worker-0") or incarnation."""
        for slot in self._slots:
            if name and name in (str(slot.slot), f"worker-{slot.slot}", slot.incarnation):
                return slot.slot
        return None

    def capacity_at(self) -> float | None:
        """The earliest time at which a worker may come; None when no slot promises one."""
        waits = [slot.wait_s for slot in self._slots if slot.state in _COMING]
        return self._taken + min(waits) if waits else None
