"""A slot: a place for one process, the policy that fills it again, and how its processes ended. Performs nothing."""

from __future__ import annotations

from collections import deque

from ..wire.messages import SlotBrief
from .exits import EndRecord
from .policy import SlotPolicy
from .process import BROKER, Child, ChildSpec

EXITS_KEPT = 20


class Slot:
    """`child`: its process, if it has one. `incarnation` stays readable after the end. `exits`: newest first."""

    def __init__(self, spec: ChildSpec, policy: SlotPolicy) -> None:
        self.spec = spec
        self.policy = policy
        self.child: Child | None = None
        self.incarnation = ""
        self.starts = 0
        self.started_at = 0.0
        self.exits: deque[EndRecord] = deque(maxlen=EXITS_KEPT)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_broker(self) -> bool:
        return self.spec.kind == BROKER

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child else None

    @property
    def restarts(self) -> int:
        return max(0, self.starts - 1)

    def took(self, child: Child, now: float) -> None:
        """A process was started here."""
        self.child = child
        self.started_at = now
        self.incarnation = child.incarnation
        self.starts += 1

    def brief(self, now: float) -> SlotBrief:
        """What the broker is told of it."""
        incarnation = self.incarnation if self.child else ""
        return SlotBrief(self.spec.slot, self.spec.device, self.policy.state, incarnation, self.policy.wait_s(now))

    def mark(self) -> tuple[object, ...]:
        """Differs from before when somebody should be told."""
        return self.policy.state, self.pid, self.incarnation, self.starts, len(self.exits), self.policy.due_at
