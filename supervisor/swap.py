"""Performs rollouts on the slots of a parent, and keeps what is wanted: the index and the version that a respawn takes.

What is next is decided in `rollout`; here it is done. A process that starts gets the aim of its slot: that is what is wanted,
except in the slot that tries the new one before anybody has loaded it.
"""

from __future__ import annotations

import os
from dataclasses import replace

from ..wire import messages
from .aims import Aim, MakeSpec, pinned
from .exits import CONFIGURATION, DISMISSED, OURS, EndRecord, lacked_room, last_line
from .fleet import Fleet
from .journal import Journal
from .policy import QUARANTINED, RUNNING, STOPPED, Wanted
from .rollout import RELOAD, Abandon, Action, Commit, Open, Place, Promote, Rollout
from .room import growth, has_room
from .slots import Slot

TOLD_MAX_CHARACTERS = 1000


class Swap:
    """`wanted`: what every respawn takes. `make` None: this parent cannot make other workers than those it has.
    `grace_s`: what a worker gets to finish what it holds."""

    def __init__(self, fleet: Fleet, make: MakeSpec | None, wanted: Aim, grace_s: float, journal: Journal) -> None:
        self.wanted = wanted
        self._fleet = fleet
        self._make = make
        self._grace_s = grace_s
        self._journal = journal
        self._aim = self.wanted
        self._growth = 0
        """Bytes that the index of the rollout is larger by than what is wanted before it."""
        self._rollout: Rollout | None = None
        self._hung_up = False
        self._ticket = ""
        self._told = ""

    def begin(self, kind: str, index: str, ticket: str, now: float) -> bool:
        """A reload of the folder `index` ("": the same as now), or a restart of all. False: another is under way, or none
        possible."""
        if self._make is None or self._is_active():
            return False
        before = (self.wanted.folder, self.wanted.version)
        number = self._aim.number + 1
        if kind == RELOAD:
            named = index or self.wanted.index
            try:
                folder = os.path.realpath(named) if named else ""
            except ValueError:  # no path at all
                return False
            self._aim = Aim(named, "", number, folder)
        else:
            self._aim = replace(self.wanted, number=number)
        self._growth = growth(before, (self._aim.folder, self._aim.version))
        self._rollout = Rollout(kind, number, self._aim.folder, before)
        self._ticket = ticket
        self.advance(now)
        return True

    def hang_up(self) -> None:
        """A reload of the same folder as soon as one can begin: whoever sends a signal is not told that it came too early."""
        when = " when this one is over" if self._is_active() else ""
        self._journal.note(f"SIGHUP: a reload{when}, unless the pool goes down")
        self._hung_up = True

    def advance(self, now: float, *, may_begin: bool = False) -> None:
        """Whatever is due. `may_begin`: the pool came up and does not go down."""
        self._pin()
        if self._hung_up and may_begin and not self._is_active():
            self._hung_up = False
            self.begin(RELOAD, "", "SIGHUP", now)
        if self._rollout is None:
            return
        while actions := self._rollout.advance(self._places()):
            self._perform(actions, now)
        self._tell()

    def cancel(self, reason: str, now: float) -> None:
        if self._rollout is not None:
            self._perform(self._rollout.cancel(reason), now)
            self._tell()

    def ended(self, slot: Slot, record: EndRecord, now: float) -> None:
        """A worker's process ended, and its policy has judged. What matters is one that was to load the new aim, and that nobody
        here ended."""
        rollout, beside = self._rollout, slot in self._fleet.beside.values()
        if rollout is None or record.exit.cause == OURS or (record.exit.cause == DISMISSED and not beside):
            return
        aim = slot.aim if record.pid is None else slot.serves
        if aim is not None and aim.number == rollout.number and slot not in self._fleet.retiring:
            hopeless, crowded = slot.policy.state in (STOPPED, QUARANTINED), beside and lacked_room(record)
            self._perform(rollout.failed(slot.spec.slot, _sentence(record), hopeless=hopeless, crowded=crowded), now)

    def brief(self) -> messages.Rollout:
        """How the last one stands, for the broker and the state file."""
        rollout = self._rollout
        if rollout is None:
            return messages.Rollout()
        before, after = rollout.before[1], rollout.version
        told = rollout.told[:TOLD_MAX_CHARACTERS]
        return messages.Rollout(self._ticket, rollout.kind, rollout.state, told, rollout.replaced, rollout.index, before, after)

    def grow(self, number: int) -> Slot | None:
        """One more slot, with what is wanted; None where this parent cannot make any."""
        return self._fleet.new_slot(self._make(number, self.wanted), self.wanted) if self._make is not None else None

    def _is_active(self) -> bool:
        return self._rollout is not None and self._rollout.active

    # ---- the slots --------------------------------------------------------------------------------------------------

    def _pin(self) -> None:
        """Once somebody serves, its version is the wanted one, whatever the folder holds later. While a rollout goes on it is for
        that to say what is wanted."""
        if self._is_active():
            return
        running = [slot for slot in self._fleet.workers if slot.policy.state == RUNNING]
        aim = pinned(self.wanted, [(slot.serves, slot.version) for slot in running if slot.serves is not None])
        if aim != self.wanted:
            if self.wanted.version:
                was = f"version {self.wanted.version} of {aim.folder or 'the index'} was gone"
                self._journal.warn(f"{was}: version {aim.version}, which is served, is wanted from now on")
            self._want(aim)

    def _places(self) -> list[Place]:
        leaving = {slot.spec.slot for slot in self._fleet.retiring}
        return [self._place(slot, slot.spec.slot in leaving) for slot in self._fleet.workers]

    def _place(self, slot: Slot, retiring: bool) -> Place:
        beside = self._fleet.beside.get(slot.spec.slot)
        return Place(
            number=slot.spec.slot,
            state=slot.policy.state,
            serves=slot.serves.number if slot.child is not None and slot.serves is not None else None,
            index=slot.serves.folder if slot.serves is not None else "",
            version=slot.version,
            beside=beside.policy.state if beside else "",
            beside_version=beside.version if beside else "",
            retiring=retiring,
            dismissed=_is_dismissed(slot),
            incarnation=slot.incarnation,
            held=(beside or slot).held,
        )

    def _slot(self, number: int) -> Slot | None:
        return next((slot for slot in self._fleet.workers if slot.spec.slot == number), None)

    # ---- what is to be done -----------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, Commit):
                self._commit(action.version, now)
            elif isinstance(action, Promote):
                self._fleet.promote(action.place, now, self._grace_s)
            elif isinstance(action, Open):
                self._open(action, now)
            else:
                self._abandon(action, now)

    def _open(self, action: Open, now: float) -> None:
        slot = self._slot(action.place)
        if slot is None or self._make is None:
            return
        self._fleet.leave_beside(action.place, now, self._grace_s)
        spec = self._make(action.place, self._aim)
        if not action.in_place and self._fits_beside(slot):
            self._journal.note(f"{slot.name}: a new process for {self._aim.folder or 'the index'} starts beside it")
            self._fleet.open_beside(slot, spec, self._aim, now)
            return
        others = sum(other.policy.state == RUNNING for other in self._fleet.workers if other is not slot)
        alone = "" if others else "; nobody else serves meanwhile, what is asked waits"
        self._journal.warn(f"{slot.name}: there is no room for a second process, so the old one is drained first{alone}")
        slot.aim_at(spec, self._aim)
        self._fleet.restart(str(action.place), now, self._grace_s)

    def _fits_beside(self, slot: Slot) -> bool:
        if slot.child is None:
            return True
        on_device = self._growth // slot.spec.gpus if slot.spec.gpus else 0
        return has_room(slot.child.pid, self._fleet.readings(slot.spec), self._growth, on_device)

    def _commit(self, version: str, now: float) -> None:
        """Slots without a process that policy would start, or gave up, get one with what is wanted now."""
        self._want(replace(self._aim, version=version))
        for slot in self._fleet.workers:
            if slot.child is None and not _is_dismissed(slot):
                slot.policy.receive(Wanted(), now)

    def _want(self, aim: Aim) -> None:
        self.wanted = self._aim = aim
        for slot in (*self._fleet.workers, *self._fleet.beside.values()):
            if self._make is not None:
                slot.aim_at(self._make(slot.spec.slot, aim), aim)

    def _abandon(self, action: Abandon, now: float) -> None:
        slot = self._slot(action.place)
        self._fleet.leave_beside(action.place, now, self._grace_s)
        if slot is None or self._make is None or slot.aim.number == self.wanted.number:
            return
        slot.aim_at(self._make(action.place, self.wanted), self.wanted)
        if not _is_dismissed(slot):
            self._fleet.restart(str(action.place), now, self._grace_s)

    def _tell(self) -> None:
        if self._rollout is not None and self._rollout.told != self._told:
            self._told = self._rollout.told
            line = f"{self._rollout.kind}: {self._told}"
            (self._journal.note if self._rollout.active else self._journal.warn)(line)


def _is_dismissed(slot: Slot) -> bool:
    """An operator wants no process there; one that was given up for its configuration is not meant."""
    return slot.policy.state == STOPPED and not slot.policy.given_up


def _sentence(record: EndRecord) -> str:
    last = last_line(record.log_tail)
    if record.exit.cause == CONFIGURATION:
        return last or record.exit.reason
    if record.pid is None:
        return f"the new process {record.exit.reason}"
    return f"the new process ended: {record.exit.reason}" + (f" ({last})" if last and record.exit.code is not None else "")
