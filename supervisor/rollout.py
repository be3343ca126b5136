"""New processes for all slots, one at a time: a reload of the index, or a restart of all. A pure state machine.

It looks at the slots as they are and says what is next; whatever else happens to them meanwhile (ends, restarts, drains, other
numbers of slots) is just how they are the next time. The first new process that is ready decides: from then on its version is
wanted everywhere, before that the old one is, and if the new one cannot be loaded nothing has changed. Each slot is judged by
what its own process has loaded, never by what another one has: one that serves that version already keeps its process, and a
reload mends what an earlier one left half done. It never starts or ends anything itself.

It ends in bounded time, whatever its processes do: a slot has `FAILURES_MAX` tries, and one that goes into quarantine has none
left, so that another reload, also the way back, is never kept out for long. What was replaced by then stays so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Union

from .policy import QUARANTINED, RUNNING

RELOAD = "reload"
RESTART = "restart"

LOADING = "loading"
"""No new process was ready yet: the old version is the wanted one."""
REPLACING = "replacing"
"""The new version is the wanted one; there are still processes of the old one."""
DONE = "done"
FAILED = "failed"
ACTIVE = (LOADING, REPLACING)

FAILURES_MAX = 2
"""Ends of new processes while one slot is open. Whoever ended them, and however long they had loaded."""


@dataclass(frozen=True, slots=True)
class Place:
    """One slot now. `state`: of its policy. `serves`: the number of the aim that its living process was started for, None without
    one. `index`: the folder which that process serves; `version`: which version of it, "" if it has loaded none yet. `beside`:
    the state of the process that loads beside it, "" without one, and `beside_version` what that one has loaded. `retiring`: an
    older process still leaves. `dismissed`: an operator wants no process here. `incarnation`: tells one process from the next.
    `held`: why the next process may not start now, in words, where that is known."""

    number: int
    state: str
    serves: int | None
    index: str = ""
    version: str = ""
    beside: str = ""
    beside_version: str = ""
    retiring: bool = False
    dismissed: bool = False
    incarnation: str = ""
    held: str = ""


@dataclass(frozen=True, slots=True)
class Open:
    """A process with the new aim for this slot: beside the old one, or in its place, where there is no room or `in_place` says
    that there was none. What loads beside it leaves."""

    place: int
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """This version is wanted from now on, by whichever process is started next, wherever."""

    version: str


@dataclass(frozen=True, slots=True)
class Promote:
    """The process beside takes the slot; the old one drains and leaves."""

    place: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """No new process here: the one beside leaves; where the old one was drained first, the version that is wanted comes back."""

    place: int


Action = Union[Open, Commit, Promote, Abandon]


class Rollout:
    """Number `number`, from what is served `before` (folder, version) to the folder `index`. `told`: one sentence on how it
    stands."""

    def __init__(self, kind: str, number: int, index: str, before: tuple[str, str]) -> None:
        self.kind = kind
        self.number = number
        self.index = index
        self.before = before
        self.version = ""
        self.state = LOADING
        self.replaced = 0
        self.failures = 0
        self.told = "is about to start a first new process"
        self._open: int | None = None
        self._opened: Place | None = None
        """The open slot as it was before."""
        self._in_place = False
        """Two processes did not fit in one slot."""
        self._is_mixed = False

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def open(self) -> int | None:
        """The slot that gets its new process now."""
        return self._open

    # ---- how the slots are ------------------------------------------------------------------------------------------

    def advance(self, places: Collection[Place]) -> list[Action]:
        """What is to be done now. Call it until it says nothing more."""
        if not self.active:
            return []
        place = next((place for place in places if place.number == self._open), None)
        if self._open is not None:
            actions = self._go_on(self._open, place)
            if actions or self._open is not None or not self.active:
                return actions
        return self._choose(sorted(places, key=lambda place: place.number))

    def _go_on(self, number: int, place: Place | None) -> list[Action]:
        if place is None or place.dismissed:
            self._open = None
            return [Abandon(number)]
        if place.beside == RUNNING:
            actions = self._commit(place.beside_version)
            if self._is_served_by(place):
                self._open = None
                return [*actions, Abandon(number)]
            return [*actions, Promote(number)]
        if (place.beside or place.state) == QUARANTINED:
            return self._give_up(f"slot {number} is quarantined" + (f": {place.held}" if place.held else ""))
        if place.beside:
            orphaned = self.state == REPLACING and place.serves is None
            return [Promote(number)] if orphaned else []
        if place.serves == self.number and place.state == RUNNING and not self._still_leaves(place):
            actions = self._commit(place.version)
            if not place.retiring:
                self.replaced += self.kind == RESTART or not self._served_already(place)
                self._open = None
            return actions
        return []

    def _still_leaves(self, place: Place) -> bool:
        """Whether that is the process which the new one is to follow: one of ours, of a version that was not the wanted one."""
        was = self._opened
        return was is not None and (place.serves, place.incarnation) == (was.serves, was.incarnation)

    def _served_already(self, place: Place) -> bool:
        was = self._opened
        return was is not None and (place.index, place.version) == (was.index, was.version)

    def _choose(self, places: Sequence[Place]) -> list[Action]:
        """The next slot, or the end."""
        wanted = [place for place in places if not place.dismissed]
        outdated = [place for place in wanted if self._is_outdated(place)]
        if self.state == LOADING:
            running = [place for place in outdated if place.state == RUNNING]
            self._is_mixed = any((place.index, place.version) != self.before for place in running)
            outdated = running or outdated or wanted
            if not outdated:
                return self._give_up("there is no worker that could try it: every slot was drained")
        if outdated:
            self._opened = outdated[0]
            self._open, self.failures = self._opened.number, 0
            self.told = f"slot {self._open} gets a new process, {self.replaced} of {self.replaced + len(outdated)} are replaced"
            return [Open(self._open, self._in_place)]
        if not any(place.retiring for place in places):
            self.state = DONE
            self.told = self._success(sum(place.state != RUNNING for place in wanted))
        return []

    def _is_outdated(self, place: Place) -> bool:
        """Whether its process has to go. One of ours too, if the version that it was to load was gone and it took another."""
        if place.serves is None or self._is_served_by(place):
            return False
        return place.serves != self.number or place.version not in ("", self.version)

    def _is_served_by(self, place: Place) -> bool:
        """Whether that process serves what a reload has found. A restart is for all, whatever they serve."""
        serves = (place.index, place.version) == (self.index, self.version)
        return self.kind == RELOAD and place.state == RUNNING and serves

    def _commit(self, version: str) -> list[Action]:
        if self.state == REPLACING and self.version == version:
            return []
        self.state, self.version = REPLACING, version
        return [Commit(version)]

    # ---- what happened ----------------------------------------------------------------------------------------------

    def failed(self, number: int, sentence: str, *, hopeless: bool, crowded: bool = False) -> list[Action]:
        """The new process of that slot ended before the slot was done. `hopeless`: none follows it soon. `crowded`: it stood
        beside another one and there was not enough memory, so it is tried alone before anything is given up."""
        if not self.active or number != self._open:
            return []
        if crowded:
            self._in_place = True
            self.told = f"slot {number} is tried again in place of the old one: {sentence}"
            return [Open(number, in_place=True)]
        self.failures += 1
        if hopeless or self.failures >= FAILURES_MAX:
            return self._give_up(sentence)
        self.told = f"slot {number} is tried again: {sentence}"
        return []

    def cancel(self, reason: str) -> list[Action]:
        """The pool goes down, or cannot go on."""
        return self._give_up(reason) if self.active else []

    # ---- how it ends ------------------------------------------------------------------------------------------------

    def _give_up(self, sentence: str) -> list[Action]:
        serves = "what was there serves on" if self._is_mixed or not self.before[1] else f"version {self.before[1]} serves on"
        if self.state == REPLACING:
            rest = f"the rest is as it was and follows when it is started again, or with the next {self.kind}"
            serves = f"{_workers(self.replaced)} replaced, {rest}"
        self.state = FAILED
        self.told = f"{sentence}; {serves}"
        opened, self._open = self._open, None
        return [Abandon(opened)] if opened is not None else []

    def _success(self, idle: int) -> str:
        """`idle`: slots without a process that serves; they get the version with their next one."""
        if self.kind == RELOAD and not self.replaced:
            unchanged = f"version {self.version} is what {self.index or 'the index'} still is: nothing to replace"
            return f"{unchanged}, {_workers(idle)} to start" if idle else unchanged
        workers = f"{_workers(self.replaced)} replaced"
        if self.kind == RESTART or self.before[1] == self.version:
            return f"{workers}, version {self.version}"
        return f"{self.before[1] or 'unknown'} -> {self.version}, {workers}"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
