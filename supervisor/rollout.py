"""New processes for all slots, one at a time: a reload of the index, or a restart of all. A pure state machine.

It looks at the slots as they are and says what is next; whatever else happens to them meanwhile (ends, restarts, drains, other
numbers of slots) is just how they are the next time. The first new process that is ready decides: from then on its version is
wanted everywhere, before that the old one is, and if the new one cannot be loaded nothing has changed. It never starts or ends
anything itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Union

from .policy import RUNNING

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
"""Ends of new processes before one was ready."""


@dataclass(frozen=True, slots=True)
class Place:
    """One slot now. `state`: of its policy. `serves`: the number of the aim that its living process was started for, None without
    one. `version`: which version that process has loaded, "" if none yet. `beside`: the state of the process that loads beside
    it, "" without one, and `beside_version` what that one has loaded. `retiring`: an older process still leaves. `dismissed`:
    an operator wants no process here."""

    number: int
    state: str
    serves: int | None
    version: str = ""
    beside: str = ""
    beside_version: str = ""
    retiring: bool = False
    dismissed: bool = False


@dataclass(frozen=True, slots=True)
class Open:
    """A process with the new aim for this slot: beside the old one, or where there is no room in its place."""

    place: int


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
        self._sentence = ""

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
            if self._is_known(place.beside_version):
                return self._end_unchanged([Abandon(number)], place.beside_version)
            return [*self._commit(place.beside_version), Promote(number)]
        if place.beside:
            orphaned = self.state == REPLACING and place.serves is None
            return [Promote(number)] if orphaned else []
        if place.serves == self.number and place.state == RUNNING:
            if self._is_known(place.version):
                return self._end_unchanged([Commit(place.version)], place.version)
            actions = self._commit(place.version)
            if not place.retiring:
                self.replaced += 1
                self._open = None
            return actions
        return []

    def _choose(self, places: Sequence[Place]) -> list[Action]:
        """The next slot, or the end."""
        outdated = [place for place in places if place.serves not in (None, self.number) and not place.dismissed]
        if self.state == LOADING:
            running = [place for place in outdated if place.state == RUNNING]
            outdated = running or outdated or [place for place in places if not place.dismissed]
            if not outdated:
                return self._give_up("there is no worker that could try it: every slot was drained")
        if outdated:
            self._open = outdated[0].number
            self.told = f"slot {self._open} gets a new process, {self.replaced} of {self.replaced + len(outdated)} are replaced"
            return [Open(self._open)]
        if not any(place.retiring for place in places):
            self.state = DONE
            self.told = self._success()
        return []

    def _is_known(self, version: str) -> bool:
        """Whether a reload found what is served already."""
        return self.kind == RELOAD and self.state == LOADING and (self.index, version) == self.before

    def _commit(self, version: str) -> list[Action]:
        if self.state == REPLACING:
            return []
        self.state, self.version = REPLACING, version
        return [Commit(version)]

    # ---- what happened ----------------------------------------------------------------------------------------------

    def failed(self, number: int, sentence: str, *, hopeless: bool) -> list[Action]:
        """The new process of that slot ended before it was ready. `hopeless`: none follows it by itself."""
        if not self.active or number != self._open:
            return []
        self.failures += 1
        self._sentence = sentence
        if hopeless or (self.state == LOADING and self.failures >= FAILURES_MAX):
            return self._give_up(sentence)
        self.told = f"slot {number} is tried again: {sentence}"
        return []

    def cancel(self, reason: str) -> list[Action]:
        """The pool goes down, or cannot go on."""
        return self._give_up(reason) if self.active else []

    # ---- how it ends ------------------------------------------------------------------------------------------------

    def _give_up(self, sentence: str) -> list[Action]:
        serves = f"version {self.before[1]} serves on" if self.before[1] else "what was there serves on"
        if self.state == REPLACING:
            serves = f"{_workers(self.replaced)} replaced, the rest is as it was and follows when it is started again"
        self.state = FAILED
        self.told = f"{sentence}; {serves}"
        opened, self._open = self._open, None
        return [Abandon(opened)] if opened is not None else []

    def _end_unchanged(self, actions: list[Action], version: str) -> list[Action]:
        self.state, self.version, self._open = DONE, version, None
        self.told = f"version {version} is what {self.index or 'the index'} still is: nothing to replace"
        return actions

    def _success(self) -> str:
        workers = f"{_workers(self.replaced)} replaced"
        if self.kind == RESTART:
            return f"{workers}, version {self.version}"
        return f"{self.before[1] or 'unknown'} -> {self.version}, {workers}"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
