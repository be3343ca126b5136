"""Rollouts, one after the other, while anything happens to the slots: laws after every step, and how each must end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count, cycle, islice

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ragpool.supervisor.policy import BACKOFF, QUARANTINED, RUNNING, STARTING, STOPPED
from ragpool.supervisor.rollout import DONE, FAILED, LOADING, RELOAD, RESTART, Abandon, Commit, Open, Place, Promote, Rollout

INDEXES = ("a", "b")
LOADS, FAILS, IS_CROWDED, WAITS = "loads", "fails", "is crowded", "waits"
ROUNDS = 40
"""More than the tries of six slots, with one for each version that is found."""


@dataclass(frozen=True)
class Aim:
    """`version` "": whichever is the newest of that index."""

    index: str
    version: str
    number: int


@dataclass
class Process:
    """`version`: "" until it has loaded one."""

    aim: Aim
    version: str = ""
    incarnation: int = field(default_factory=count().__next__)

    @property
    def ready(self) -> bool:
        return self.version != ""

    @property
    def serves(self) -> tuple[str, str]:
        return (self.aim.index, self.version)


@dataclass
class Slot:
    aim: Aim
    process: Process | None = None
    beside: Process | None = None
    leaving: list[Process] = field(default_factory=list)
    draining_first: bool = False
    dismissed: bool = False
    held: bool = False
    """Its next process may not start now."""

    @property
    def ready(self) -> bool:
        return self.process is not None and self.process.ready and not self.draining_first


class RolloutMachine(RuleBasedStateMachine):
    """Plays the parent and its children: slots with a process, perhaps another one beside it, and those that leave. Indexes are
    built again, and versions that nobody has open are gone."""

    @initialize(
        slots=strategies.integers(1, 4),
        room=strategies.lists(strategies.booleans(), min_size=1, max_size=8),
        index=strategies.sampled_from(INDEXES),
        fates=strategies.lists(strategies.sampled_from((LOADS, FAILS, FAILS, IS_CROWDED, WAITS)), min_size=1, max_size=8),
    )
    def begin(self, slots: int, room: list[bool], index: str, fates: list[str]) -> None:
        self.newest = dict.fromkeys(INDEXES, 1)
        self.gone: set[str] = set()
        self.wanted = Aim("a", "a1", 0)
        self.slots = {number: Slot(self.wanted, Process(self.wanted, "a1")) for number in range(slots)}
        self.room = room
        self.fates = fates
        """Of the processes that a rollout tries at the end, in turn."""
        self.begin_rollout(RELOAD, index)

    def begin_rollout(self, kind: str, index: str) -> None:
        before, self.wanted_before = (self.wanted.index, self.wanted.version), self.wanted
        number = self.rollout.number + 1 if hasattr(self, "rollout") else 1
        self.aim = Aim(index, "", number) if kind == RELOAD else replace(self.wanted, number=number)
        self.taken: int | None = None
        """The slot whose process it took away before another was there."""
        self.rollout = Rollout(kind, number, self.aim.index, before)
        self.advance()

    # ---- the parent -------------------------------------------------------------------------------------------------

    def places(self) -> list[Place]:
        found = []
        for number, slot in self.slots.items():
            process, waits = slot.process, QUARANTINED if slot.held else BACKOFF
            state = STOPPED if slot.dismissed else waits if process is None else RUNNING if process.ready else STARTING
            loading = QUARANTINED if slot.held else STARTING
            found.append(
                Place(
                    number,
                    state,
                    serves=process.aim.number if process else None,
                    index=process.aim.index if process else "",
                    version=process.version if process else "",
                    beside="" if slot.beside is None else RUNNING if slot.beside.ready else loading,
                    beside_version=slot.beside.version if slot.beside else "",
                    retiring=bool(slot.leaving),
                    dismissed=slot.dismissed,
                    incarnation=str(process.incarnation) if process else "",
                )
            )
        return found

    def advance(self) -> None:
        active = self.rollout.active
        for _ in range(12):
            actions = self.rollout.advance(self.places())
            if not actions:
                break
            for action in actions:
                self.perform(action)
        else:
            raise AssertionError("it says ever more")
        if active and not self.rollout.active:
            self.check_end()

    def perform(self, action: object) -> None:
        if isinstance(action, Commit):
            self.wanted = self.aim = replace(self.aim, version=action.version)
            for slot in self.slots.values():
                slot.aim = self.wanted
            return
        assert isinstance(action, Open | Promote | Abandon)
        slot = self.slots.get(action.place)
        if slot is None:
            assert isinstance(action, Abandon)
        elif isinstance(action, Open):
            self.open(slot, action)
        elif isinstance(action, Promote):
            assert slot.beside is not None
            if slot.process is not None:
                assert slot.beside.ready or not slot.process.ready, "a ready process only for a ready one"
                slot.leaving.append(slot.process)
            slot.process, slot.beside = slot.beside, None
        else:
            self.leave_beside(slot)
            if slot.aim != self.wanted:
                slot.aim, slot.draining_first = self.wanted, False
                if slot.process is not None and slot.process.aim.number != self.wanted.number:
                    slot.process = None

    def open(self, slot: Slot, action: Open) -> None:
        self.leave_beside(slot)
        assert all(other.beside is None for other in self.slots.values()), "one at a time"
        self.room.append(self.room.pop(0))
        if not action.in_place and (slot.process is None or self.room[0]):
            slot.beside = Process(self.aim)
            return
        assert self.taken is None, "one at a time"
        slot.aim = self.aim
        if slot.process is not None:
            slot.draining_first, self.taken = True, action.place

    def leave_beside(self, slot: Slot) -> None:
        if slot.beside is not None:
            slot.leaving.append(slot.beside)
            slot.beside = None

    def fails(self, number: int, *, hopeless: bool, crowded: bool) -> None:
        active = self.rollout.active
        for action in self.rollout.failed(number, "no luck", hopeless=hopeless, crowded=crowded):
            self.perform(action)
        if active and not self.rollout.active:
            self.check_end()

    def pick(self, number: int) -> tuple[int, Slot]:
        chosen = sorted(self.slots)
        return (chosen[number % len(chosen)], self.slots[chosen[number % len(chosen)]])

    def found_by(self, aim: Aim) -> str:
        """The version that a process with this aim loads now."""
        return f"{aim.index}{self.newest[aim.index]}" if aim.version in ("", *self.gone) else aim.version

    # ---- what happens -----------------------------------------------------------------------------------------------

    @rule()
    def what_leaves_is_gone(self) -> None:
        for slot in self.slots.values():
            slot.leaving.clear()
            if slot.draining_first:
                slot.process, slot.draining_first = None, False
        self.advance()

    @rule()
    def slots_without_a_process_get_one(self) -> None:
        for slot in self.slots.values():
            if slot.process is None and not slot.dismissed:
                slot.process = Process(slot.aim)
        self.advance()

    @rule(number=strategies.integers(0, 9))
    def one_loads(self, number: int) -> None:
        name, slot = self.pick(number)
        for process in (slot.process, slot.beside):
            if process is not None and not process.ready:
                process.version = self.found_by(process.aim)
        if self.taken == name and slot.ready:
            self.taken = None
        self.advance()

    @precondition(lambda self: self.rollout.open is not None)
    @rule()
    def what_is_tried_loads(self) -> None:
        self.what_leaves_is_gone()
        self.slots_without_a_process_get_one()
        if self.rollout.open is not None:
            self.one_loads(sorted(self.slots).index(self.rollout.open))
        self.what_leaves_is_gone()

    @precondition(lambda self: self.rollout.open is not None)
    @rule(hopeless=strategies.booleans(), crowded=strategies.booleans())
    def what_is_tried_fails(self, hopeless: bool, crowded: bool) -> None:
        name = self.rollout.open
        slot = self.slots[name]
        if slot.beside is not None and not slot.beside.ready:
            self.fails(name, hopeless=hopeless, crowded=crowded)
        elif slot.process is not None and not slot.process.ready and slot.process.aim.number == self.rollout.number:
            slot.process = None
            self.fails(name, hopeless=hopeless, crowded=False)
        self.advance()

    @precondition(lambda self: self.rollout.open is not None)
    @rule()
    def what_is_tried_has_to_wait(self) -> None:
        """For memory of its device, or with all slots there."""
        slot = self.slots[self.rollout.open]
        if slot.beside is None and slot.process is not None:
            return
        slot.held = True
        self.advance()
        slot.held = False
        assert not self.rollout.active, "nobody knows for how long"

    @rule(number=strategies.integers(0, 9))
    def one_crashes(self, number: int) -> None:
        name, slot = self.pick(number)
        slot.process, slot.draining_first = None, False
        if self.taken == name:
            self.taken = None
        self.advance()

    @rule(number=strategies.integers(0, 9))
    def an_operator_drains_one(self, number: int) -> None:
        self.pick(number)[1].dismissed = True
        self.one_crashes(number)

    @rule(number=strategies.integers(0, 9))
    def an_operator_wants_it_back(self, number: int) -> None:
        self.pick(number)[1].dismissed = False
        self.advance()

    @rule()
    def an_operator_wants_one_more(self) -> None:
        if len(self.slots) < 6:
            self.slots[max(self.slots) + 1] = Slot(self.wanted)
        self.advance()

    @rule(index=strategies.sampled_from(INDEXES))
    def an_index_is_built_again(self, index: str) -> None:
        """What it replaced is gone unless somebody has it open."""
        self.newest[index] += 1
        processes = [p for slot in self.slots.values() for p in (slot.process, slot.beside, *slot.leaving) if p is not None]
        is_open = {process.version for process in processes}
        self.gone |= {f"{index}{number}" for number in range(1, self.newest[index])} - is_open
        self.advance()

    @precondition(lambda self: not self.rollout.active)
    @rule(kind=strategies.sampled_from((RELOAD, RELOAD, RESTART)), index=strategies.sampled_from(INDEXES))
    def another_rollout_begins(self, kind: str, index: str) -> None:
        self.begin_rollout(kind, index)

    # ---- the laws ---------------------------------------------------------------------------------------------------

    @invariant()
    def laws_hold(self) -> None:
        if not hasattr(self, "slots"):
            return
        beside = [number for number, slot in self.slots.items() if slot.beside is not None]
        assert len(beside) <= 1
        assert not beside or self.rollout.active, "what nobody needs does not go on loading"
        if self.rollout.state == LOADING:
            odd = [number for number, slot in self.slots.items() if slot.aim != self.wanted]
            assert len(odd) <= 1, "before the first is ready one slot at most is risked"
        else:
            assert all(slot.aim == self.wanted for slot in self.slots.values()), "every respawn takes what is wanted"

    def check_end(self) -> None:
        """Whatever it found when it began."""
        wanted, committed = (self.wanted.index, self.wanted.version), self.wanted.number == self.rollout.number
        serving = [slot.process for slot in self.slots.values() if slot.ready and not slot.dismissed]
        if self.rollout.state == DONE:
            assert committed
            assert all(process.serves == wanted for process in serving), (wanted, serving)
            if self.rollout.kind == RESTART:
                assert all(process.aim.number == self.rollout.number for process in serving), "everybody was replaced"
        else:
            assert self.rollout.state == FAILED
            if not committed:
                assert self.wanted == self.wanted_before
                alive = [slot.process for slot in self.slots.values() if slot.process is not None]
                assert all(process.aim.number != self.rollout.number for process in alive), "nobody has the new one"

    def end_by_itself(self) -> None:
        """A rollout ends in bounded time, whatever becomes of the processes that it tries; those of other slots load."""
        for fate in islice(cycle(self.fates), ROUNDS):
            self.what_leaves_is_gone()
            if self.rollout.open is not None and fate == WAITS:
                self.what_is_tried_has_to_wait()
            self.slots_without_a_process_get_one()
            for number, name in enumerate(sorted(self.slots)):
                if name != self.rollout.open or fate == LOADS:
                    self.one_loads(number)
            if self.rollout.open is not None and fate != LOADS:
                self.what_is_tried_fails(hopeless=False, crowded=fate == IS_CROWDED)
            self.laws_hold()
        assert not self.rollout.active

    def settle(self) -> None:
        """Left alone, with processes that load, every rollout ends."""
        for _ in range(30):
            self.what_leaves_is_gone()
            self.slots_without_a_process_get_one()
            for number in range(len(self.slots)):
                self.one_loads(number)
            self.laws_hold()
        assert not self.rollout.active

    def teardown(self) -> None:
        """Whatever they left behind, the next reload makes it whole."""
        if not hasattr(self, "slots"):
            return
        self.end_by_itself()
        for slot in self.slots.values():
            slot.dismissed = False
        self.begin_rollout(RELOAD, self.wanted.index)
        self.settle()
        assert self.rollout.state == DONE
        newest = (self.wanted.index, f"{self.wanted.index}{self.newest[self.wanted.index]}")
        assert {slot.process.serves for slot in self.slots.values() if slot.process is not None} == {newest}


TestRolloutMachine = RolloutMachine.TestCase
TestRolloutMachine.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
