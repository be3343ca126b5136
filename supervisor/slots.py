"""A slot: a place for one process, the policy that fills it again, and how its processes ended. Performs nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from ..wire.messages import Gone, SlotBrief
from .aims import Aim
from .device_memory import MemoryWait, Reading
from .exits import EndRecord
from .policy import SlotPolicy
from .process import BROKER, Child, ChildSpec
from .watch import Watch, WatchRules

EXITS_KEPT = 20
REASON_MAX_CHARACTERS = 500


UNTOLD_IDS_MAX = 2048
"""Ids of one end that its successor is told: as many as a batch may have."""


class Slot:
    """`child`: its process, if it has one. `incarnation` stays readable after the end. `exits`: newest first. `aim`: what the
    next process is to serve; `serves`: what its process, or the last one, was started for; `version`: what its process has
    loaded.

    `untold`: ends that the next process of the slot tells the broker, for one that heard nothing of them.
    """

    def __init__(self, spec: ChildSpec, policy: SlotPolicy, watch_rules: WatchRules, aim: Aim = Aim()) -> None:  # noqa: B008 - frozen
        self.spec = spec
        self.aim = aim
        self.serves: Aim | None = None
        self.version = ""
        self.policy = policy
        self.child: Child | None = None
        self.incarnation = ""
        self.starts = 0
        self.started_at = 0.0
        self.exits: deque[EndRecord] = deque(maxlen=EXITS_KEPT)
        self.untold: list[Gone] = []
        self.watch = Watch(watch_rules, 0.0)
        self.reading: Reading | None = None
        """Of its device, when its process was last seen alive."""
        self.memory: MemoryWait | None = None
        self.held = ""
        """Why it may not start now, in words."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_broker(self) -> bool:
        return self.spec.kind == BROKER

    @property
    def on_cuda(self) -> bool:
        return self.spec.device.startswith("cuda")

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child else None

    @property
    def restarts(self) -> int:
        return max(0, self.starts - 1)

    @property
    def detail(self) -> str:
        """What is unusual about it now, for the status; empty where nothing is."""
        if self.child is None:
            return self.held
        if self.child.doom:
            return f"is being ended: {self.child.doom}"
        return "is being stopped" if self.child.ours else self.watch.detail()

    def aim_at(self, spec: ChildSpec, aim: Aim) -> None:
        """What the next process here is."""
        self.spec = replace(spec, lane=self.spec.lane)
        self.aim = aim

    def stands_beside(self, other: Slot) -> None:
        """The same place: ends and starts are counted together, logs are not."""
        self.spec = replace(self.spec, lane=1 - other.spec.lane)
        self.exits = other.exits
        self.starts = other.starts

    def took(self, child: Child, now: float) -> None:
        """A process was started here."""
        self.child = child
        self.serves = self.aim
        self.started_at = now
        self.incarnation = child.incarnation
        self.starts += 1
        self.watch = Watch(self.watch.rules, now)
        self.reading = None
        self.memory = None
        self.held = ""

    def lost(self, end: EndRecord, now: float) -> Gone:
        """Its process ended so; what others are to be told of it."""
        self.child = None
        self.version = ""
        gone = Gone(end.incarnation, end.exit.reason[:REASON_MAX_CHARACTERS], end.exit.blame, end.running)
        kept = replace(gone, running=gone.running[:UNTOLD_IDS_MAX])
        self.untold = [kept, *[old for old in self.untold if old.blame and old.running][:1]]
        if self.on_cuda and end.pid is not None:
            self.memory = MemoryWait(end.pid, self.reading is not None and end.pid in self.reading.by_pid, now)
        return gone

    def device_memory(self) -> Mapping[str, int] | None:
        """Bytes on its device when its process was last seen alive."""
        if self.reading is None:
            return None
        known = {"used": self.reading.used, "total": self.reading.total}
        held = self.reading.by_pid.get(self.pid or 0)
        return known if held is None else {**known, "process": held}

    def brief(self, now: float) -> SlotBrief:
        """What the broker is told of it."""
        incarnation = self.incarnation if self.child else ""
        return SlotBrief(self.spec.slot, self.spec.device, self.policy.state, incarnation, self.policy.wait_s(now))

    def mark(self) -> tuple[object, ...]:
        """Differs from before when somebody should be told."""
        return (
            self.policy.state,
            self.pid,
            self.incarnation,
            self.starts,
            len(self.exits),
            self.policy.due_at,
            self.detail,
            self.version,
        )
