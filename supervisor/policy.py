"""When a slot's process is started again: backoff, intensity, quarantine. A pure state machine over a table.

Events go in through `SlotPolicy.receive`, with the time as an argument; what to do comes out of `next_spawns` and
`next_deadline`. An event that the table does not list raises `IllegalTransition` with the slot's history. It never
starts or ends anything itself, and never reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Union

from .exits import AGAIN, CONFIGURATION, DISMISSED, FAULT, OURS, Exit
from .rules import RestartRules, backoff_s

STARTING = "starting"
RUNNING = "running"
BACKOFF = "backoff"
QUARANTINED = "quarantined"
STOPPED = "stopped"
STATES = (STARTING, RUNNING, BACKOFF, QUARANTINED, STOPPED)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The slot shall have a process: at the start, or because an operator says so (which ends a quarantine too)."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """It has one; it loads."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """It serves."""


@dataclass(frozen=True, slots=True)
class Ended:
    """It is gone, or could not be started."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The slot shall have no process any more."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Its device is in quarantine, or the memory there is not free: no new process before `until`. One that lives goes on."""

    until: float


Event = Union[Wanted, Spawned, Loaded, Ended, Tick, Stop, Hold]

TRANSITIONS: Mapping[tuple[str, type], tuple[str, ...]] = {
    (STOPPED, Wanted): (STARTING,),
    (STOPPED, Loaded): (STOPPED,),  # said just before it was stopped
    (STOPPED, Ended): (STOPPED,),
    (STOPPED, Tick): (STOPPED,),
    (STOPPED, Stop): (STOPPED,),
    (STOPPED, Hold): (STOPPED,),
    (STARTING, Wanted): (STARTING,),
    (STARTING, Spawned): (STARTING,),
    (STARTING, Loaded): (RUNNING, STARTING),  # the latter: by a process that was stopped before
    (STARTING, Ended): (BACKOFF, QUARANTINED, STOPPED, STARTING),  # the latter: the same
    (STARTING, Tick): (STARTING,),
    (STARTING, Stop): (STOPPED,),
    (STARTING, Hold): (STARTING, QUARANTINED),  # the former: its process lives
    (RUNNING, Wanted): (RUNNING,),
    (RUNNING, Ended): (BACKOFF, QUARANTINED, STOPPED),
    (RUNNING, Tick): (RUNNING,),
    (RUNNING, Stop): (STOPPED,),
    (RUNNING, Hold): (RUNNING,),
    (BACKOFF, Wanted): (STARTING,),
    (BACKOFF, Tick): (BACKOFF, STARTING),
    (BACKOFF, Stop): (STOPPED,),
    (BACKOFF, Hold): (QUARANTINED,),
    (QUARANTINED, Wanted): (STARTING,),
    (QUARANTINED, Tick): (QUARANTINED, STARTING),
    (QUARANTINED, Stop): (STOPPED,),
    (QUARANTINED, Hold): (QUARANTINED,),
}
"""State and event to the states that may follow. What is not here is a defect of ours."""


class IllegalTransition(RuntimeError):
    """A defect of ours: the slot got an event that its state does not know. The message tells its history."""


class SlotPolicy:
    """One slot. `alive`: it has a process. `since`: when the state was entered. `due_at`: when backoff or quarantine is over."""

    def __init__(self, name: str, rules: RestartRules, rng: Random) -> None:
        self.name = name
        self.rules = rules
        self.state = STOPPED
        self.alive = False
        self.leaving = False
        """The process it has was stopped; should the slot be wanted again, it gets another one."""
        self.since = 0.0
        self.due_at: float | None = None
        self.failures = 0
        """Ends in a row without a healthy run between them."""
        self.counted: deque[float] = deque()
        """Times of the ends that count, within the window."""
        self.probing = False
        """Half-open: the next end that counts leads straight back into quarantine."""
        self.served = False
        """It was running at least once."""
        self.given_up = False
        """Stopped by a configuration error, not because somebody wants no process here."""
        self.history: deque[str] = deque(maxlen=24)
        self._rng = rng

    @property
    def wants_process(self) -> bool:
        return self.state == STARTING and not self.alive

    @property
    def loading(self) -> bool:
        return self.state == STARTING and self.alive and not self.leaving

    def receive(self, event: Event, now: float) -> None:
        """The one door. `now`: seconds of a monotonic clock. Raises `IllegalTransition`."""
        allowed = TRANSITIONS.get((self.state, type(event)))
        if allowed is None:
            raise IllegalTransition(f"{self.name} is {self.state} and got {event}; before that: {'; '.join(self.history)}")
        state = self._next_state(event, now)
        if state not in allowed:
            raise IllegalTransition(
                f"{self.name}: {event} led from {self.state} to {state}; before that: {'; '.join(self.history)}"
            )
        if state != self.state or not isinstance(event, Tick):
            self.history.append(f"{now:.3f} {self.state} {type(event).__name__} {state}")
        if state != self.state:
            self.since = now
            if state not in (BACKOFF, QUARANTINED):
                self.due_at = None
        self.state = state

    def _next_state(self, event: Event, now: float) -> str:
        if isinstance(event, Ended):
            return self._after_end(event.exit, now)
        if isinstance(event, Tick):
            return self._after_tick(now)
        if isinstance(event, Stop):
            self.leaving, self.given_up = self.alive, False
            return STOPPED
        if isinstance(event, Hold):
            if self.alive or self.state == STOPPED:
                return self.state
            self.due_at = event.until
            return QUARANTINED
        if isinstance(event, Spawned):
            if self.alive:
                raise IllegalTransition(f"{self.name} has a process already; before that: {'; '.join(self.history)}")
            self.alive = True
            return STARTING
        if isinstance(event, Loaded):
            self.served = True
            return self.state if self.leaving else RUNNING
        return RUNNING if self.state == RUNNING else self._start_afresh()

    def _start_afresh(self) -> str:
        self.failures = 0
        self.probing = self.given_up = False
        self.counted.clear()
        return STARTING

    def _after_tick(self, now: float) -> str:
        if self.state == RUNNING:
            self._heal(now)
        if self.due_at is None or now < self.due_at:
            return self.state
        self.probing = self.probing or self.state == QUARANTINED
        return STARTING

    def _heal(self, now: float) -> None:
        if now >= self.since + self.rules.healthy_after_s:
            self.failures = 0
            self.probing = False

    def _after_end(self, end: Exit, now: float) -> str:
        was_leaving, self.alive, self.leaving = self.leaving, False, False
        if self.state == STOPPED or was_leaving:
            return self.state
        if self.state == RUNNING:
            self._heal(now)
        if end.cause == DISMISSED:
            return STOPPED
        if end.cause == CONFIGURATION and not (self.rules.restarts_max is None and self.served):
            self.given_up = True
            return STOPPED
        if end.cause in (FAULT, CONFIGURATION) and self._is_too_much(now):
            self.due_at = now + self.rules.quarantine_probe_s
            return QUARANTINED
        if end.cause in (AGAIN, OURS) and self.state == RUNNING:
            self.due_at = now + (0.0 if self.rules.at_once else self.rules.backoff_min_s)
        else:
            self.due_at = now + backoff_s(self.rules, self.failures, self._rng)
            self.failures += 1
        return BACKOFF

    def _is_too_much(self, now: float) -> bool:
        """Count this end; True when the slot must be left alone for a while."""
        if self.rules.restarts_max is None:
            return False
        self.counted.append(now)
        while self.counted[0] <= now - self.rules.restarts_window_s:
            self.counted.popleft()
        return self.probing or len(self.counted) > self.rules.restarts_max

    def deadline(self) -> float | None:
        """When a Tick would change something; None: not by time alone."""
        if self.state == RUNNING and (self.failures or self.probing):
            return self.since + self.rules.healthy_after_s
        return self.due_at

    def wait_s(self, now: float) -> float:
        """Seconds until the next attempt in this slot; 0 where none is pending."""
        return max(0.0, self.due_at - now) if self.due_at is not None else 0.0


def next_spawns(slots: Iterable[SlotPolicy], loading_max: int, barred: Collection[SlotPolicy] = ()) -> list[SlotPolicy]:
    """Whom to give a process now: those who waited longest and are not `barred`, while at most `loading_max` load at a time."""
    slots = list(slots)
    places = loading_max - sum(slot.loading for slot in slots)
    waiting = sorted((slot for slot in slots if slot.wants_process and slot not in barred), key=lambda slot: slot.since)
    return waiting[: max(0, places)]


def next_deadline(slots: Iterable[SlotPolicy]) -> float | None:
    """When the next Tick is due, on the clock of `now`."""
    return min((at for at in (slot.deadline() for slot in slots) if at is not None), default=None)


def check_invariants(slot: SlotPolicy) -> None:
    """What is true of a slot between any two events. For tests; raises AssertionError."""
    told = f"{slot.name}: {'; '.join(slot.history)}"
    checks = {
        "a known state": slot.state in STATES,
        "a waiting slot knows until when": (slot.due_at is not None) == (slot.state in (BACKOFF, QUARANTINED)),
        "a waiting slot has no process": not (slot.alive and slot.state in (BACKOFF, QUARANTINED)),
        "a running slot has one": slot.alive or slot.state != RUNNING,
        "a process that leaves leaves a slot that was stopped": slot.state in (STOPPED, STARTING) or not slot.leaving,
        "a process that leaves is one": slot.alive or not slot.leaving,
        "only a stopped slot was given up": slot.state == STOPPED or not slot.given_up,
        "only those that count are quarantined": slot.rules.restarts_max is not None or slot.state != QUARANTINED,
        "the window holds no more than it may": slot.rules.restarts_max is not None or not slot.counted,
    }
    for law, holds in checks.items():
        if not holds:
            raise AssertionError(f"broken: {law}; {told}")
